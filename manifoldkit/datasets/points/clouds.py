"""One reader for the files that hold a point cloud."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manifoldkit.datasets.points import tables
from manifoldkit.datasets.points.off import is_off, parse_off
from manifoldkit.datasets.points.pcd import read_pcd
from manifoldkit.datasets.points.ply import read_ply

_ELSEWHERE = {  # formats of other libraries, and how to get from there to here
    **dict.fromkeys((".las", ".laz"), "np.save('cloud.npy', laspy.read(path).xyz)"),
    ".e57": "np.save('cloud.npy', ...) of what pye57 reads",
    **dict.fromkeys(
        (".obj", ".stl", ".glb", ".gltf", ".3ds", ".dae", ".3mf"),
        "trimesh.load(path, force='mesh').export('mesh.ply')",
    ),
    **dict.fromkeys(
        (".vtk", ".vtp", ".vtu"), "pyvista.read(path).extract_surface().save('a.ply')"
    ),
    **dict.fromkeys((".h5", ".hdf5"), "h5py.File(path)[name][:], an array"),
    ".mat": "scipy.io.loadmat(path)[name], an array",
    **dict.fromkeys(
        (".pkl", ".pickle", ".pt", ".pth"),
        "an array saved by np.save: pickles are not read, because that can run a "
        "program",
    ),
    **dict.fromkeys((".gz", ".zip", ".7z", ".bz2", ".xz"), "the unpacked file"),
}
_MAGIC = {
    b"LASF": ".las",
    b"ASTM-E57": ".e57",
    b"glTF": ".glb",
    b"\x89HDF": ".h5",
    b"\x1f\x8b": ".gz",
    b"# vtk": ".vtk",
    b"<?xml": ".vtp",
    b"solid ": ".stl",
    b"MATLAB": ".mat",
    b"\x80\x04": ".pkl",
    b"\x80\x02": ".pkl",
    b"\x80\x05": ".pkl",
}


class Cloud(NamedTuple):
    """A point cloud as a file holds it.

    Attributes
    ----------
    points : ndarray of float, shape (n, 3)
        Points, in the precision of the file; not finite where the file says so.
    normals : ndarray of float, shape (n, 3), or None
        Normals as written, of any length.
    colors : ndarray, shape (n, 3) or (n, 4), or None
        Red, green, blue and perhaps alpha as written: integers to 255, or numbers to 1.
    labels : ndarray of int64 or str, shape (n,), or None
        A column named label, class, part or alike.
    columns : dict of str to ndarray
        All other columns by name, one row a point.
    faces : ndarray of int64, shape (m, 3), or None
        Triangles, where the file is a mesh.
    found : str
        What the file was found to be, and its columns.
    """

    points: np.ndarray
    normals: np.ndarray | None
    colors: np.ndarray | None
    labels: np.ndarray | None
    columns: dict[str, np.ndarray]
    faces: np.ndarray | None
    found: str


def read_cloud(path: str | Path, *, columns: Sequence[str] | None = None) -> Cloud:
    r"""Read a point cloud: PLY, PCD, OFF, XYZ and other text, CSV, NPY or NPZ.

    The content decides, not the name of the file. PLY and PCD are read as text and as
    binary (PLY of both byte orders, with lists; PCD compressed too), OFF with all its
    prefixes (:func:`read_off`), text with spaces, tabs, commas or semicolons between
    the numbers, with or without a header or the number of points in front.
    Nothing is unpickled.

    In a table without names the first three columns are the points. Three more are
    normals if they have length one, or colors if they are whole numbers to 255, and a
    last whole number is a label; ``found`` says what was taken for what, and
    ``columns`` overrules it.

    Parameters
    ----------
    path : str or Path
        File.
    columns : sequence of str, optional
        Names of the columns of a table, such as ``["x", "y", "z", "intensity"]``.

    Returns
    -------
    Cloud

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Another format (the message says how to convert it), a file that ends early, a
        line that is not like the others, columns without x, y and z.

    See Also
    --------
    manifoldkit.equivariant.PointCloudClassifier : Takes lists of such points.

    References
    ----------
    .. [1] G. Turk, "The PLY polygon file format", 1994.
    .. [2] R. B. Rusu, S. Cousins, "3D is here: Point Cloud Library (PCL)", ICRA 2011.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cloud.xyz"
    >>> _ = file.write_text("0 0 0  0 0 1  2\n1 0 0  0 0 1  2\n0 1 0  0 0 1  3\n")
    >>> cloud = read_cloud(file)
    >>> cloud.found
    'text, spaces: 3 points; x y z nx ny nz label'
    >>> cloud.points.shape, cloud.normals[0], cloud.labels
    ((3, 3), array([0., 0., 1.]), array([2, 2, 3]))
    """
    path = Path(path)
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path}: the file is empty")
    faces = None
    if data[:3] == b"ply" and data[3:4] in b"\r\n":
        kind, found, faces = read_ply(path, data)
    elif is_off(data):
        kind, found, faces = _off_columns(path)
    elif data[:200].lstrip().startswith((b"# .PCD", b"VERSION")):
        kind, found = read_pcd(path, data)
    elif data[:6] == b"\x93NUMPY":
        kind, found = tables.read_npy(path, data, columns)
    elif data[:4] == b"PK\x03\x04" and path.suffix.lower() != ".3mf":
        kind, found = tables.read_npz(path, data, columns)
    else:
        _refuse(path, data)
        kind, found = tables.read_text(path, data, columns)
    return _cloud(path, kind, found, faces)


def _refuse(path: Path, data: bytes) -> None:
    """Name formats that others read."""
    kinds = [kind for magic, kind in _MAGIC.items() if data.startswith(magic)]
    kind = kinds[0] if kinds else path.suffix.lower()
    if kind in _ELSEWHERE:
        raise ValueError(
            f"{path}: expected PLY, PCD, OFF, text, NPY or NPZ, found "
            f"{kind[1:].upper()}; convert it: {_ELSEWHERE[kind]}"
        )


def _off_columns(path: Path) -> tuple[str, dict[str, np.ndarray], np.ndarray]:
    off = parse_off(path)
    found = dict(zip("xyz", off.vertices.T, strict=True))
    if off.normals is not None:
        found |= dict(zip(("nx", "ny", "nz"), off.normals.T, strict=True))
    if off.colors is not None:
        names = ("red", "green", "blue", "alpha")
        found |= dict(zip(names, off.colors.T, strict=False))
    texture = off.kind.startswith("ST") and off.rest.shape[1] == 2
    for i, column in enumerate(off.rest.T):
        found["st"[i] if texture else f"column_{len(found)}"] = column
    return off.kind, found, off.faces


def _cloud(
    path: Path, kind: str, found: dict[str, np.ndarray], faces: np.ndarray | None
) -> Cloud:
    """Put columns together by their names."""
    by_name: dict[str, str] = {}
    for name in found:
        by_name.setdefault(tables.canonical(name), name)

    def take(*names: str) -> np.ndarray | None:
        if not all(name in by_name for name in names):
            return None
        own = [found[by_name[name]] for name in names]
        if any(c.ndim != 1 or c.dtype.kind not in "fiu" for c in own):
            return None
        used.update(by_name[name] for name in names)
        return np.stack(own, 1)

    used: set[str] = set()
    points = take("x", "y", "z")
    if points is None:
        raise ValueError(
            f"{path}: expected columns x, y and z of numbers, found "
            f"{', '.join(found)}; of a table, name them by columns="
        )
    colors = take("red", "green", "blue", "alpha")
    colors = take("red", "green", "blue") if colors is None else colors
    normals, labels = take("nx", "ny", "nz"), None
    if "label" in by_name:
        labels = _labels(found[by_name["label"]])
        used.update([] if labels is None else [by_name["label"]])
    if faces is not None and not len(faces):
        faces = None
    return Cloud(
        _floating(points),
        None if normals is None else _floating(normals),
        colors,
        labels,
        {name: values for name, values in found.items() if name not in used},
        faces,
        f"{kind}: {len(points)} points; {' '.join(map(str, found))}"
        + ("" if faces is None else f"; {len(faces)} triangles"),
    )


def _floating(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f" and values.itemsize >= 4:
        return values
    return values.astype(np.float64)


def _labels(values: np.ndarray) -> np.ndarray | None:
    """Whole numbers or names; anything else stays among the columns."""
    if values.ndim != 1:
        return None
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        whole = np.isfinite(values).all() and (values == np.round(values)).all()
        return values.astype(np.int64) if whole else None
    return values if values.dtype.kind == "U" else None
