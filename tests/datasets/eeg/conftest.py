"""Fabricated archives of the EEG sets, in the documented form."""

import numpy as np
import pytest

from manifoldkit.datasets.archive import write_archive
from manifoldkit.datasets.eeg import MOTOR_CHANNELS


@pytest.fixture
def physionet(tmp_path, rng):
    """A folder with a fabricated archive of subject 1, runs 4, 6 and 8."""
    names = (*MOTOR_CHANNELS, "O1", "O2")
    arrays = {
        "ch_names": np.array(names),
        "sfreq": np.array(160.0),
        "unit": np.array("uV"),
        "runs": np.array([4, 6, 8]),
    }
    for run in (4, 6, 8):
        data = 20 * rng.standard_normal((len(names), 6000))
        arrays[f"run{run:02d}_data"] = data.astype(np.int16)
        onsets = np.arange(8) * 700
        events = [(t, 656, (0, 1, 0, 2)[i % 4]) for i, t in enumerate(onsets)]
        arrays[f"run{run:02d}_events"] = np.array(events, dtype=np.int32)
    write_archive(tmp_path / "eeg" / "physionet_mi_S001.npz", arrays)
    return tmp_path


@pytest.fixture
def mamem(tmp_path, rng):
    arrays = {
        "X": rng.standard_normal((20, 8, 125)).astype(np.float32),
        "y": np.arange(20) % 5,
        "session": np.repeat([1, 2, 3, 4, 5], 4),
        "sfreq": np.array(125.0),
        "stim_hz": np.array([12.0, 10.0, 8.57, 7.5, 6.66]),
    }
    for subject in (1, 2):
        write_archive(tmp_path / "eeg" / f"mamem_ssvep_U{subject:03d}.npz", arrays)
    return tmp_path
