"""Molecular dynamics: windows of MD17 trajectories."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit._checks import check_choice, check_count, check_counts
from manifoldkit.datasets.archive import check_array, read_archive

# eighths of the trajectory
_SHARES = {"train": (0, 5), "val": (5, 6), "test": (6, 8)}


class MoleculeWindows(NamedTuple):
    """Windows of a molecule's motion, in the units of the file (angstrom).

    Attributes
    ----------
    past, future : ndarray, shape (n_windows, n_atoms, n_frames, 3)
        Observed and later positions.
    numbers : ndarray of int, shape (n_atoms,)
        Atomic numbers.
    bonds : ndarray of bool, shape (n_atoms, n_atoms)
        Atoms closer than 1.6 angstrom in the first frame of the file.
    """

    past: np.ndarray
    future: np.ndarray
    numbers: np.ndarray
    bonds: np.ndarray


def md17_windows(
    npz: str | Path,
    split: str = "train",
    *,
    history: int = 10,
    horizon: int = 10,
    gap: int = 20,
    stride: int = 20,
    hydrogens: bool = False,
    max_windows: int | None = None,
    random_state: int = 0,
) -> MoleculeWindows:
    """Cut an MD17 file into windows of past and future frames.

    The trajectory is cut in time, 5:1:2 for training, validation and test, so that
    windows of different splits never overlap.

    Parameters
    ----------
    npz : str or Path
        A file such as ``md17_aspirin.npz`` or ``aspirin_dft.npz`` with the positions
        "R" (frames, atoms, 3) and the atomic numbers "z".
    split : {"train", "val", "test"}
        Part of the trajectory.
    history, horizon : int, default=10, 10
        Observed and future frames.
    gap : int, default=20
        Steps of the file between two frames.
    stride : int, default=20
        Steps of the file between the starts of two windows (EqMotion takes 10 for
        uracil).
    hydrogens : bool, default=False
        Keep the hydrogen atoms.
    max_windows : int, optional
        Draw so many windows, without replacement (EqMotion: 5000, 2000, 2000).
    random_state : int, default=0
        Seed of that draw.

    Returns
    -------
    MoleculeWindows

    Raises
    ------
    ValueError, TypeError
        Not such a file; unknown split; counts that are no integers of at least 1; too
        short for one window.

    References
    ----------
    .. [1] S. Chmiela et al., "Machine learning of accurate energy-conserving molecular
       force fields", Science Advances 2017.
    """
    check_choice(split, _SHARES, "split")
    check_counts(history=history, horizon=horizon, gap=gap, stride=stride)
    if max_windows is not None:
        check_count(max_windows, "max_windows")
    positions, numbers = _read_trajectory(Path(npz))
    if not hydrogens:
        positions, numbers = positions[:, numbers > 1], numbers[numbers > 1]
    begin, end = (share * len(positions) // 8 for share in _SHARES[split])
    span = (history + horizon - 1) * gap + 1
    starts = np.arange(begin, end - span + 1, stride)
    if not len(starts):
        raise ValueError(
            f"{npz}: the {split} part has {end - begin} steps, a window needs {span}"
        )
    if max_windows is not None and len(starts) > max_windows:
        rng = np.random.default_rng(random_state)
        starts = np.sort(rng.choice(starts, max_windows, replace=False))
    index = starts[:, None] + gap * np.arange(history + horizon)
    windows = positions[index].transpose(0, 2, 1, 3)
    distance = np.linalg.norm(positions[0][:, None] - positions[0][None], axis=-1)
    bonds = (distance < 1.6) & ~np.eye(len(numbers), dtype=bool)
    return MoleculeWindows(
        windows[:, :, :history].copy(), windows[:, :, history:].copy(), numbers, bonds
    )


def _read_trajectory(npz: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions (frames, atoms, 3) and atomic numbers of an MD17 file."""
    arrays = read_archive(npz, ("R", "z"), only=True)
    positions, numbers = arrays["R"], arrays["z"].reshape(-1).astype(int)
    check_array(npz, "R", positions, (None, len(numbers), 3))
    return positions, numbers
