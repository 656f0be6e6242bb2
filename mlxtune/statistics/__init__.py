"""How sure a score is, and whether a change is one: intervals and paired comparisons.

Questions about one picture stand and fall together, so counting them as independent makes intervals too narrow. All functions
take `clusters`, a key for each item (`row_clusters` makes them), and resample whole clusters.

>>> interval([1.0] * 15 + [0.0] * 5)
Interval(low=0.531..., high=0.888..., level=0.95, n=20, clusters=20, method='Wilson')
>>> paired([0.0] * 60 + [1.0] * 40, [1.0] * 90 + [0.0] * 10).sentence()
'+50.0 points (95 %: 36.0 … 62.0)'
"""

from mlxtune.statistics.clusters import row_clusters
from mlxtune.statistics.comparison import Paired, paired, paired_metric
from mlxtune.statistics.intervals import Interval, interval, metric_interval

__all__ = ["Interval", "Paired", "interval", "metric_interval", "paired", "paired_metric", "row_clusters"]
