"""Everything a user can mend, as one tree of errors. Each message says what, where and what to do about it.

The command line prints the message alone and leaves with status 2; what we promise ourselves is an `assert` instead.
"""


class MlxtuneError(Exception):
    """Base of all errors that a user can mend."""


class RecipeError(MlxtuneError):
    """The recipe cannot be read, or some of its keys are wrong."""


class DataError(MlxtuneError):
    """Rows or pictures are missing, broken, or of another form than the task expects."""


class RowError(DataError):
    """One row, or its picture, cannot be used; whether that ends the run is the recipe's to say (`data.max_skipped`).

    reason: a few words that such rows are counted by, such as "picture missing".
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelError(MlxtuneError):
    """The model folder is incomplete, unsafe to load, or of a family that is not known."""


class AdapterError(MlxtuneError):
    """The adapter does not fit the model, or is of a kind that cannot be applied."""


class BackendError(MlxtuneError):
    """The chosen backend, device or precision is not there."""


class RunError(MlxtuneError):
    """The run folder cannot be resumed, is damaged, or is taken."""
