"""The container of EEG epochs that all loaders return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

#: The 21 channels over the motor cortex that ``channels="motor"`` means.
MOTOR_CHANNELS = (
    *("FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6"),
    *("C5", "C3", "C1", "Cz", "C2", "C4", "C6"),
    *("CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6"),
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class EEGEpochs:
    """Epochs of EEG with labels and origin.

    Attributes
    ----------
    X : ndarray of float64, shape (n_epochs, n_channels, n_times)
        Signals in microvolts.
    y : ndarray of str, shape (n_epochs,)
        Class names.
    sfreq : float
        Samples a second.
    ch_names : tuple of str
        Channel names.
    subject, session, run : ndarray, shape (n_epochs,)
        Where each epoch comes from; split by these, not at random, where they differ.
    name, task : str
        Data set and task.
    is_real : bool
        Recordings (True) or a simulation.
    provenance, citation, license : str
        Origin in a sentence, what to cite, terms of use.

    Examples
    --------
    >>> from manifoldkit.datasets import make_motor_imagery_eeg
    >>> epochs = make_motor_imagery_eeg(n_epochs=6, n_times=80, random_state=0)
    >>> epochs
    EEGEpochs('simulated_motor_imagery', 6 epochs x 21 channels x 80 samples at 160 Hz,
    {'left_hand': 3, 'right_hand': 3}, simulated)
    """

    X: np.ndarray
    y: np.ndarray
    sfreq: float
    ch_names: tuple[str, ...]
    subject: np.ndarray
    session: np.ndarray
    run: np.ndarray
    name: str
    task: str
    is_real: bool
    provenance: str
    citation: str
    license: str

    def __post_init__(self) -> None:
        if self.X.ndim != 3 or self.X.shape[1] != len(self.ch_names):
            raise ValueError(
                f"X: expected shape (n_epochs, {len(self.ch_names)}, n_times), "
                f"found {self.X.shape}"
            )
        for name in ("y", "subject", "session", "run"):
            if len(getattr(self, name)) != len(self.X):
                raise ValueError(
                    f"{name}: expected one value an epoch, {len(self.X)}, "
                    f"found {len(getattr(self, name))}"
                )

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        n, c, t = self.X.shape
        kind = "recorded" if self.is_real else "simulated"
        return (
            f"EEGEpochs({self.name!r}, {n} epochs x {c} channels x {t} samples at "
            f"{self.sfreq:g} Hz, {self.class_counts}, {kind})"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in sorted order."""
        return tuple(str(c) for c in np.unique(self.y))

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of epochs of each class."""
        return {c: int((self.y == c).sum()) for c in self.classes}

    def select(
        self,
        channels: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        index: ArrayLike | None = None,
    ) -> EEGEpochs:
        """Return the epochs of some channels, classes or indices.

        Parameters
        ----------
        channels : sequence of str, optional
            Channels to keep, in this order.
        classes : sequence of str, optional
            Classes to keep.
        index : array-like, optional
            Epochs to keep (boolean or integer), applied before ``classes``.

        Raises
        ------
        ValueError
            A channel or class that is not there.
        """
        rows = np.arange(len(self))
        rows = rows if index is None else rows[np.asarray(index)]
        if classes is not None:
            unknown = sorted(set(classes) - set(self.classes))
            if unknown:
                raise ValueError(
                    f"classes: no epochs of {unknown}, there are {self.classes}"
                )
            rows = rows[np.isin(self.y[rows], list(classes))]
        names = self.ch_names if channels is None else tuple(channels)
        columns = channel_index(self.ch_names, names)
        return replace(
            self,
            X=self.X[rows][:, columns],
            y=self.y[rows],
            ch_names=names,
            subject=self.subject[rows],
            session=self.session[rows],
            run=self.run[rows],
        )

    def to_torch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return signals (float64) and class indices (position in ``classes``)."""
        import torch

        codes = np.searchsorted(np.array(self.classes), self.y)
        return torch.from_numpy(self.X), torch.from_numpy(codes)


def channel_index(available: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the positions of channels by name, or raise naming those not there."""
    missing = [name for name in wanted if name not in available]
    if missing:
        raise ValueError(
            f"channels: {missing} not recorded, there are {', '.join(available)}"
        )
    return [list(available).index(name) for name in wanted]
