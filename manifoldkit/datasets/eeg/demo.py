"""EEG for a demonstration: real epochs where they are, else a simulation."""

import warnings
from pathlib import Path
from typing import Literal, overload

from manifoldkit._checks import check_choice
from manifoldkit.datasets.archive import Arrays, absent_folder, find_archive
from manifoldkit.datasets.eeg.archives import physionet_source
from manifoldkit.datasets.eeg.epochs import EEGEpochs
from manifoldkit.datasets.eeg.recordings import fetch_physionet_mi
from manifoldkit.datasets.eeg.simulation import make_motor_imagery_eeg

#: Tasks of :func:`load_eeg_demo` and the runs that hold them.
DEMO_TASKS = {
    "imagined_fists_feet": (6, 10),
    "imagined_left_right": (4, 8),
    "executed_left_right": (3, 7, 11),
}


@overload
def load_eeg_demo(
    task: str = ...,
    *,
    path: str | Path | None = ...,
    return_X_y: Literal[False] = ...,
    random_state: int | None = ...,
) -> EEGEpochs: ...
@overload
def load_eeg_demo(
    task: str = ...,
    *,
    path: str | Path | None = ...,
    return_X_y: Literal[True],
    random_state: int | None = ...,
) -> Arrays: ...
def load_eeg_demo(
    task: str = "imagined_fists_feet",
    *,
    path: str | Path | None = None,
    return_X_y: bool = False,
    random_state: int | None = 0,
) -> EEGEpochs | Arrays:
    """Load epochs for a demonstration, without ever using the network.

    Subject 1 of :func:`fetch_physionet_mi` where its archive is on this machine, else
    :func:`make_motor_imagery_eeg`; ``is_real`` and ``provenance`` tell which.

    Parameters
    ----------
    task : {"imagined_fists_feet", "imagined_left_right", "executed_left_right"}
        Two classes each; 30, 30 and 45 trials.
    path : str or Path, optional
        Archive file or data folder; default the folder ``MANIFOLDKIT_DATA``, then the
        user's cache.
    return_X_y : bool, default=False
        Return ``(X, y)`` only.
    random_state : int or None, default=0
        Seed of the simulation.

    Returns
    -------
    EEGEpochs

    Raises
    ------
    ValueError
        Unknown task.

    Warns
    -----
    UserWarning
        The folder that was named is not there.

    Examples
    --------
    >>> from manifoldkit.datasets import load_eeg_demo
    >>> load_eeg_demo().X.ndim
    3
    """
    check_choice(task, DEMO_TASKS, "task")
    if find_archive(physionet_source(1).relative, path) is not None:
        epochs = fetch_physionet_mi(1, DEMO_TASKS[task], path=path, download=False)
    else:
        if absent := absent_folder(path):
            warnings.warn(f"{absent}: a simulation stands in", stacklevel=2)
        executed = task == "executed_left_right"
        feet = task == "imagined_fists_feet"
        epochs = make_motor_imagery_eeg(
            n_epochs=45 if executed else 30,
            classes=("both_fists", "both_feet")
            if feet
            else ("left_hand", "right_hand"),
            snr=0.0 if executed else -5.0,
            random_state=random_state,
        )
    return (epochs.X, epochs.y) if return_X_y else epochs
