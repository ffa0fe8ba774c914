"""``manifoldkit demo --download``, without a network: MNE's downloader is replaced."""

import numpy as np
import pytest
from typer.testing import CliRunner

from manifoldkit import cli
from manifoldkit.datasets import load_eeg_demo
from manifoldkit.experiments.spd import eeg_demo

mne = pytest.importorskip("mne")
eegbci = pytest.importorskip("mne.datasets.eegbci")

MOTOR = "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(cli.console, "width", 200, raising=False)


@pytest.fixture
def server(monkeypatch):
    """Asked runs; ``broken`` holds those at which the line goes dead."""
    asked, broken = [], set()
    info = mne.create_info(MOTOR.split(), 160.0, "eeg")
    rng = np.random.default_rng(0)
    signal = 3e-5 * rng.standard_normal((21, 160 * 20))
    raw = mne.io.RawArray(signal, info, verbose="error")
    marks = mne.Annotations([0, 4, 8, 12], [4.0] * 4, ["T1", "T2", "T0", "T1"])
    raw.set_annotations(marks)

    def load_data(subject, runs, **options):
        (run,) = runs
        if run in broken:
            raise ConnectionError("no route to host\nand more lines")
        asked.append(run)
        return [f"S{subject:03d}R{run:02d}.edf"]

    monkeypatch.setattr(eegbci, "load_data", load_data)
    monkeypatch.setattr(mne.io, "read_raw_edf", lambda file, **k: raw.copy())
    return asked, broken


def demo(*options):
    result = CliRunner().invoke(cli.app, ["demo", "--quick", *options])
    return result.exit_code, result.output


def test_downloads_once_and_runs_on_the_recordings(server, monkeypatch):
    seen = []

    def run(out, *, quick, seed, jobs, resume, console):
        seen.append(load_eeg_demo())

    monkeypatch.setattr(eeg_demo, "run", run)
    asked, _ = server
    assert demo("--download")[0] == 0
    assert asked == list(range(3, 15))
    assert seen[0].is_real
    assert set(seen[0].run) == {6, 10}
    assert demo("--download")[0] == 0  # they are here
    assert asked == list(range(3, 15))


def test_offline_is_one_sentence_and_what_is_complete_is_kept(server, monkeypatch):
    monkeypatch.setattr(eeg_demo, "run", lambda out, **k: pytest.fail("ran"))
    asked, broken = server
    broken.add(7)
    code, text = demo("--download")
    assert code == 1
    assert text.count("\n") == 1
    assert text.startswith("error: --download: the recordings of PhysioNet could not")
    assert "no route to host)" in text
    assert "leave --download out for simulated data" in text
    assert asked == [3, 4, 5, 6]  # each file for itself, so MNE has these
    assert not load_eeg_demo().is_real


def test_without_recordings_the_first_line_says_so(monkeypatch):
    monkeypatch.setattr(eeg_demo, "load_tasks", lambda *a: [{"is_real": False}])

    def stop(self, *a, **k):
        raise ValueError("far enough")

    monkeypatch.setattr("manifoldkit.experiments.evaluation.Run.store", stop)
    _, text = demo()
    first = text.splitlines()[0]
    assert "SIMULATED" in first
    assert "manifoldkit demo --download" in first


def test_mne_is_named_where_it_is_missing(monkeypatch):
    import sys

    for name in ("mne", "mne.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    code, text = demo("--download")
    assert code == 1
    assert "needs mne" in text
