"""What the scikit-learn faces of torch networks share: settings, seed, batches, files.

A face names its settings in a table, builds a network, and hands it to
:func:`manifoldkit._faces.training.train`. After ``fit`` and after ``load`` alike
``net_.module_`` is the network; only training needs skorch.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from manifoldkit._checks import Rule, check_settings, count, interval, positive
from manifoldkit._faces.files import plain, read_content, read_tensors, write_files

#: Settings of the training that every face has.
TRAINING: dict[str, Rule] = {
    "lr": positive,
    "weight_decay": interval(0),
    "max_epochs": count(),
    "batch_size": count(),
    "patience": count(),
    "validation_fraction": interval(0, 1, "()"),
}


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Torch's generators, seeded inside and untouched outside."""
    cuda = torch.device(device).type == "cuda"
    devices = [torch.cuda.current_device()] if cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def split_off(
    n: int, share: float, seed: int, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, and those put aside for validation.

    Parameters
    ----------
    n : int
        Number of samples.
    share : float
        Share put aside.
    seed : int
        Decides which ones.
    labels : ndarray of shape (n,), optional
        Classes whose shares are kept.

    Raises
    ------
    ValueError
        There are too few samples, or samples of a class, for two parts.

    Examples
    --------
    >>> rows, held = split_off(10, 0.2, seed=0)
    >>> len(rows), len(held)
    (8, 2)
    """
    try:
        rows, held = train_test_split(
            np.arange(n), test_size=share, stratify=labels, random_state=seed % 2**31
        )
    except ValueError as error:
        by = "" if labels is None else " by class"
        raise ValueError(
            f"early_stopping: the data cannot be split{by} with "
            f"validation_fraction={share}: {error}"
        ) from None
    return rows, held


class Deadline:
    """Tells whether a time has passed since training began.

    Examples
    --------
    >>> late = Deadline(None)  # there is no limit
    >>> late.start()
    >>> late()
    False
    """

    def __init__(self, seconds: float | None):
        self.seconds, self.end = seconds, float("inf")

    def start(self) -> None:
        """Begin to count."""
        if self.seconds is not None:
            self.end = time.monotonic() + self.seconds

    def __call__(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self.end


class Loaded:
    """Holds the network of a model that was read from files, as a trainer would."""

    def __init__(self, module: nn.Module):
        self.module_ = module


def evaluate(
    function: Callable[..., Any], arrays: Mapping[str, Tensor], size: int, device: str
) -> list[Any]:
    """Call a function batch by batch, without gradients, on a device.

    Parameters
    ----------
    function : callable
        Takes the arrays by name; what it returns is collected.
    arrays : mapping of str to Tensor
        All of one length; an empty one makes one empty batch.
    size : int
        Rows a batch.
    device : str
        Where the batches go.

    Examples
    --------
    >>> parts = evaluate(lambda x: x + 1, {"x": torch.zeros(5)}, 2, "cpu")
    >>> [len(part) for part in parts]
    [2, 2, 1]
    """
    split = {name: array.split(size) for name, array in arrays.items()}
    with torch.no_grad():
        return [
            function(
                **{k: part.to(device) for k, part in zip(split, parts, strict=True)}
            )
            for parts in zip(*split.values(), strict=True)
        ]


class TorchFace:
    """Settings, saving and loading of an estimator around a torch network.

    A face sets :attr:`_format` and :attr:`_settings` and gives two hooks:
    :meth:`_content`, tensors and plain values of a fitted model, and :meth:`_restore`,
    which makes a fitted model of them.
    """

    _format: ClassVar[str]
    _settings: ClassVar[Mapping[str, Rule]]
    #: Whether a ``random_state`` that is a generator is left out of the files.
    _forgets_generator: ClassVar[bool] = False
    net_: Any

    def _check_settings(self) -> None:
        check_settings(self, self._settings)

    def _content(self) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        raise NotImplementedError

    def _restore(self, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        raise NotImplementedError

    def _adopt(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Take a network with these weights for fitted."""
        module.load_state_dict(weights)
        device = self.device  # type: ignore[attr-defined]
        self.net_ = Loaded(module.to(device).eval())

    def save(self, path: str | Path) -> None:
        """Write ``path.safetensors`` (tensors) and ``path.json`` (everything else).

        Parameters
        ----------
        path : str or Path
            Without the suffix.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Nothing is fitted.
        MissingExtraError
            safetensors is not installed.
        TypeError
            A parameter that JSON does not hold, such as a callable or a generator.
        """
        check_is_fitted(self)
        params = self.get_params(deep=False)  # type: ignore[attr-defined]
        generator = isinstance(params.get("random_state"), np.random.RandomState)
        if generator and self._forgets_generator:
            params["random_state"] = None
        params = {
            k: plain(k, str(v) if isinstance(v, Path) else v) for k, v in params.items()
        }
        tensors, content = self._content()
        write_files(path, tensors, {"format": self._format, "params": params} | content)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote; nothing is unpickled.

        The optimizer starts anew if training goes on.

        Parameters
        ----------
        path : str or Path
            Without the suffix.
        device : str, default="cpu"
            Where the network goes, whatever it was trained on.

        Returns
        -------
        A fitted estimator.

        Raises
        ------
        FileNotFoundError
            There are no such files.
        ValueError
            The files hold something else.
        """
        content = read_content(path, cls._format)
        model = cls(**cls._parameters(content["params"]) | {"device": device})
        model._restore(content, read_tensors(path))
        return model

    @staticmethod
    def _parameters(stored: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments from what JSON holds: it knows no tuples."""
        return stored
