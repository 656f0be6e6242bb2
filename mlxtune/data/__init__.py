"""From files or the hub to examples, one direction: sources → rows → (task) → examples on disk → splits.

`base`, `sources`, `pictures` and their readers know files and the hub. `read` makes one pass over the rows, `filter` and `policy`
decide what stays, `examples` keeps it on disk, `splits`, `duplicates` and `mix` decide which rows are learned and which are
asked, `load` does it all and `result` says what came of it.
"""

from mlxtune.data.examples import Examples, data_fingerprint
from mlxtune.data.load import load_data, load_set
from mlxtune.data.policy import Skipped
from mlxtune.data.result import Data

__all__ = ["Data", "Examples", "Skipped", "data_fingerprint", "load_data", "load_set"]
