"""EEG for a demonstration: real epochs where they are, else a simulation."""

from pathlib import Path

from manifoldkit.datasets.archive import find_archive
from manifoldkit.datasets.eeg.archives import (
    physionet_source,
)
from manifoldkit.datasets.eeg.recordings import fetch_physionet_mi

#: Tasks of :func:`load_eeg_demo` and the runs that hold them.
DEMO_TASKS = {
    "imagined_fists_feet": (6, 10),
    "imagined_left_right": (4, 8),
    "executed_left_right": (3, 7, 11),
}


def load_eeg_demo(
    task: str = "imagined_fists_feet",
    *,
    path: str | Path | None = None,
    return_X_y: bool = False,
    random_state: int | None = 0,
):
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
        Of the simulation.

    Returns
    -------
    EEGEpochs

    Raises
    ------
    ValueError
        Unknown task.

    Examples
    --------
    >>> from manifoldkit.datasets import load_eeg_demo
    >>> load_eeg_demo().X.ndim
    3
    """
    if task not in DEMO_TASKS:
        raise ValueError(f"task: expected one of {tuple(DEMO_TASKS)}, found {task!r}")
    if find_archive(physionet_source(1).relative, path) is not None:
        runs = DEMO_TASKS[task]
        epochs = fetch_physionet_mi((1,), runs, path=path, download=False)
    else:
        from manifoldkit.datasets.eeg.simulation import make_motor_imagery_eeg

        classes = {
            "imagined_fists_feet": ("both_fists", "both_feet"),
            "imagined_left_right": ("left_hand", "right_hand"),
            "executed_left_right": ("left_hand", "right_hand"),
        }[task]
        epochs = make_motor_imagery_eeg(
            n_epochs=45 if task == "executed_left_right" else 30,
            classes=classes,
            snr=0.0 if task == "executed_left_right" else -5.0,
            random_state=random_state,
        )
    return (epochs.X, epochs.y) if return_X_y else epochs
