"""Every loader against files that are cut, empty, of another kind or malicious."""

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from manifoldkit import datasets
from manifoldkit.datasets import make_molecule_graphs
from manifoldkit.equivariant import PointCloudClassifier
from manifoldkit.experiments.catalog import DATASETS
from manifoldkit.experiments.evaluation import Store
from manifoldkit.experiments.result import Result
from manifoldkit.graphs import GraphCorpus, SubgraphRetriever


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def _npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _other():
    return _npz(something=np.arange(5.0))


def _with_pickle(target):
    """An archive whose every usual key is a pickled object."""
    keys = ("X", "y", "values", "xyz", "node_ptr", "queries", "signals", "images")
    trap = np.empty(1, object)
    trap[0] = Payload(target)
    return _npz(**dict.fromkeys(keys, trap))


def _bomb():
    """A small archive that says it holds a gigantic array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("X.npy", header.getvalue())
        archive.writestr("values.npy", header.getvalue())
    return stream.getvalue()


# what is wrong: content of the file, given where a payload would leave its mark
BROKEN = {
    "empty": lambda target: b"",
    "one byte": lambda target: b"\x00",
    "noise": lambda target: np.random.default_rng(0).bytes(4000),
    "cut archive": lambda target: _other()[:-40],
    "another archive": lambda target: _other(),
    "pickle": lambda target: pickle.dumps(Payload(target)),
    "archive of pickles": _with_pickle,
    "gigantic array": lambda target: _bomb(),
    "text": lambda target: b"<html>404 not found</html>\n",
    "json": lambda target: json.dumps({"format": "x", "graphs": -1}).encode(),
}


def _fetch(name):
    entry = DATASETS[name]
    load = getattr(datasets, entry.loader)

    def read(folder):
        arguments = dict(entry.calls[0])
        takes = load.__code__.co_varnames[: load.__code__.co_argcount]
        takes += load.__code__.co_varnames[
            load.__code__.co_argcount : load.__code__.co_argcount
            + load.__code__.co_kwonlyargcount
        ]
        if "download" in takes:
            arguments["download"] = False
        return load(path=folder, **arguments)

    return entry.archives[0].format(1), read


def _readings(folder):
    """Whole readings, for a graph that is broken."""
    np.savez(folder / "readings.npz", data=np.ones((30, 3, 1)))
    return folder / "readings.npz"


def _retriever(folder):
    """A stored retriever with one file replaced."""
    return SubgraphRetriever.load(folder)


# name: the file to break and how it is read
LOADERS = {
    **{entry.loader: _fetch(name) for name, entry in DATASETS.items()},
    "load_traffic": ("t.npz", lambda folder: datasets.load_traffic(folder / "t.npz")),
    "load_traffic h5": ("t.h5", lambda folder: datasets.load_traffic(folder / "t.h5")),
    "load_traffic csv": (
        "t.csv",
        lambda folder: datasets.load_traffic(folder / "t.csv"),
    ),
    "load_traffic pickled graph": (
        "adj_mx.pkl",
        lambda folder: datasets.load_traffic(_readings(folder), folder / "adj_mx.pkl"),
    ),
    "load_traffic graph": (
        "w.npy",
        lambda folder: datasets.load_traffic(_readings(folder), folder / "w.npy"),
    ),
    "load_traffic roads": (
        "w.csv",
        lambda folder: datasets.load_traffic(_readings(folder), folder / "w.csv"),
    ),
    "load_traffic array": (
        "t.npy",
        lambda folder: datasets.load_traffic(folder / "t.npy"),
    ),
    "md17_windows": ("m.npz", lambda folder: datasets.md17_windows(folder / "m.npz")),
    "read_off": ("m.off", lambda folder: datasets.read_off(folder / "m.off")),
    "Result": ("result.json", Result.load),
    "Store": ("progress.json", lambda folder: Store(folder, {}, resume=True)),
    "GraphCorpus header": ("corpus.json", GraphCorpus),
    "GraphCorpus edges": ("edges.bin", GraphCorpus),
    "SubgraphRetriever": ("retriever.json", _retriever),
    "PointCloudClassifier": (
        "c.ckpt",
        lambda f: PointCloudClassifier.load(f / "c.ckpt"),
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", LOADERS)
def test_broken_files_are_refused(name, kind, tmp_path, monkeypatch):
    monkeypatch.delenv("MANIFOLDKIT_DATA", raising=False)
    relative, read = LOADERS[name]
    file, target = tmp_path / relative, tmp_path / "mark"
    file.parent.mkdir(parents=True, exist_ok=True)
    if name == "GraphCorpus edges":
        GraphCorpus.write(tmp_path, make_molecule_graphs(3, random_state=0))
    file.write_bytes(BROKEN[kind](target))
    with pytest.raises((ValueError, OSError)) as error:
        read(tmp_path)
    assert not target.exists(), "the pickle was executed"
    text = str(error.value)
    assert Path(relative).name in text or str(tmp_path) in text, text
    assert file.exists()


@pytest.mark.parametrize("name", LOADERS)
def test_a_folder_in_the_place_of_a_file(name, tmp_path, monkeypatch):
    monkeypatch.delenv("MANIFOLDKIT_DATA", raising=False)
    relative, read = LOADERS[name]
    (tmp_path / relative).mkdir(parents=True)
    if name == "Store":  # nothing to resume is not an error; a folder is
        pytest.skip("a folder of this name is made by nobody")
    with pytest.raises((ValueError, OSError)):
        read(tmp_path)
