"""The room as a whole: light to import, described on cards, without recordings."""

import os
import subprocess
import sys
from pathlib import Path


def test_importing_loaders_is_light():
    code = (
        "import sys, manifoldkit.datasets as d\n"
        "heavy = ('torch', 'mne', 'moabb', 'sklearn', 'pooch')\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "d.fetch_physionet_mi\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split("\n")[:2] == ["[]", "[]"]


def test_every_loader_has_a_card():
    cards = Path(__file__).parents[2] / "datasets"
    text = "".join(p.read_text() for p in cards.glob("*.md"))
    for name in (
        "fetch_physionet_mi",
        "fetch_mamem",
        "load_digits_covariances",
        "make_motor_imagery_eeg",
        "make_transfer_eeg",
    ):
        assert name in text


def test_no_recordings_in_the_repository():
    root = Path(__file__).parents[2]
    names = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.split()
    models = "tests/saved_models/"  # weights of models, not recordings
    names = [n for n in names if not n.startswith(models)]
    assert not [n for n in names if os.path.splitext(n)[1] in (".npz", ".edf", ".mat")]
