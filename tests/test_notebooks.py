"""Every notebook runs from top to bottom in fast mode."""

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted(
    (Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb")
)
# half a minute and more each: `python3 dev.py notebooks` runs all of them
LONG = ("01", "04", "05", "07", "09", "10", "11")


def marked(path):
    marks = [pytest.mark.slow] if path.stem.startswith(LONG) else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.notebook
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", map(marked, NOTEBOOKS))
def test_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("MANIFOLDKIT_FAST", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path}},
    )
    client.execute()
    figures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert figures, "a notebook without a figure"
    folder = os.environ.get("MANIFOLDKIT_NOTEBOOK_OUTPUT")
    if folder:  # to look at what a reader sees
        nbformat.write(notebook, Path(folder) / path.name)
