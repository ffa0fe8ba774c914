"""The errors and warnings of the package."""

from typing import Any


class ManifoldKitError(Exception):
    """Base class of the errors that are particular to manifoldkit."""


class NotOnManifoldError(ManifoldKitError, ValueError):
    """A value is not a point of the manifold it should be on."""


class InvalidValueError(ManifoldKitError, ValueError, TypeError):
    """A plain argument is of the wrong type or out of range.

    Which of the two it is often depends on the reader (is ``None`` for a number a wrong
    type or a wrong value?), so this is both a ``ValueError`` and a ``TypeError``.
    """


class MissingExtraError(ManifoldKitError, ImportError):
    """An optional dependency is needed and not installed.

    Parameters
    ----------
    feature : str
        What the user asked for.
    package : str
        The import name that is missing.
    extra : str
        The extra of manifoldkit that brings it.

    Examples
    --------
    >>> print(MissingExtraError("fetch_mamem", "moabb", "eeg"))
    fetch_mamem needs moabb, which is not installed: pip install "manifoldkit[eeg]"
    """

    def __init__(self, feature: str, package: str, extra: str):
        super().__init__(
            f"{feature} needs {package}, which is not installed: "
            f'pip install "manifoldkit[{extra}]"'
        )
        self.feature, self.package, self.extra = feature, package, extra

    def __reduce__(self):
        return type(self), (self.feature, self.package, self.extra)


class DatasetNotFoundError(ManifoldKitError, FileNotFoundError):
    """A data set is not on this machine and could not be downloaded."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the training of an estimator; what was learned so far is kept here.

    A ``KeyboardInterrupt``: it ends loops and searches as every other one does.

    Attributes
    ----------
    module : torch.nn.Module
        The network as it was trained so far, in evaluation mode.
    history : list of dict
        The log of the finished epochs.

    Examples
    --------
    >>> error = TrainingInterrupted("a network", [{"epoch": 1}])
    >>> print(error)  # doctest: +ELLIPSIS
    interrupted after 1 epoch(s); the network so far is the attribute module of this ...
    >>> isinstance(error, KeyboardInterrupt)
    True
    """

    def __init__(self, module: Any, history: list[dict[str, Any]]):
        super().__init__(
            f"interrupted after {len(history)} epoch(s); the network so far is the "
            "attribute module of this exception, its log the attribute history"
        )
        self.module, self.history = module, history

    def __reduce__(self):
        return type(self), (self.module, self.history)


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it reached its tolerance."""
