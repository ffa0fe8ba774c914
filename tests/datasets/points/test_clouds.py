"""Point clouds from files: round trips, other programs' files, refusals."""

import pickle
import struct

import numpy as np
import pytest

from manifoldkit.datasets import read_cloud, read_off
from manifoldkit.equivariant import PointCloudClassifier

N = 40


@pytest.fixture
def cloud():
    rng = np.random.default_rng(0)
    normals = rng.standard_normal((N, 3))
    return {
        "points": rng.standard_normal((N, 3)).astype(np.float32),
        "normals": (normals / np.linalg.norm(normals, axis=1)[:, None]).astype("f4"),
        "colors": rng.integers(0, 256, (N, 3)).astype(np.uint8),
        "labels": rng.integers(0, 5, N),
        "quality": rng.random(N).astype(np.float32),
    }


NAMES = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue", "label", "quality"]
KINDS = ["f4", "f4", "f4", "f4", "f4", "f4", "u1", "u1", "u1", "i4", "f4"]
PLY = {"f4": "float", "u1": "uchar", "i4": "int", "f8": "double"}


def columns(cloud):
    wide = np.column_stack([cloud["points"], cloud["normals"], cloud["colors"]])
    rest = [cloud["labels"], cloud["quality"]]
    return [*wide.T, *rest]


def table(cloud, order="<"):
    rows = np.empty(N, [(n, order + k) for n, k in zip(NAMES, KINDS, strict=True)])
    for name, values in zip(NAMES, columns(cloud), strict=True):
        rows[name] = values
    return rows


def check(found, cloud, exact=True):
    tolerance = {} if exact else {"atol": 1e-6}
    same = np.testing.assert_array_equal if exact else np.testing.assert_allclose
    same(found.points, cloud["points"], **tolerance)
    same(found.normals, cloud["normals"], **tolerance)
    np.testing.assert_array_equal(found.colors, cloud["colors"])
    np.testing.assert_array_equal(found.labels, cloud["labels"])
    assert found.labels.dtype == np.int64
    assert list(found.columns) == ["quality"]
    same(found.columns["quality"], cloud["quality"], **tolerance)


def ply(cloud, form, faces=((0, 1, 2), (3, 4, 5, 6)), first=()):
    """A file with an element in front, a list in it, and polygons of two sizes."""
    lines = ["ply", f"format {form} 1.0", "comment by a test", "obj_info none"]
    lines += ["element camera 2", "property list uchar float focal", "property int id"]
    lines += [f"element vertex {N}"]
    lines += [f"property {PLY[k]} {n}" for n, k in zip(NAMES, KINDS, strict=True)]
    lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    head = ("\n".join(lines) + "\nend_header\n").encode()
    if form == "ascii":
        rows = ["2 0.5 0.25 7", "0 8"]
        rows += [" ".join(map(repr, row)) for row in table(cloud).tolist()]
        rows += [" ".join(map(str, (len(f), *f))) for f in faces]
        return head + "\n".join(rows).encode() + b"\n"
    order = "<" if "little" in form else ">"
    body = struct.pack(order + "B2fiBi", 2, 0.5, 0.25, 7, 0, 8)
    body += table(cloud, order).tobytes()
    for face in faces:
        body += struct.pack(f"{order}B{len(face)}i", len(face), *face)
    return head + body


FORMS = ("ascii", "binary_little_endian", "binary_big_endian")


@pytest.mark.parametrize("form", FORMS)
def test_ply(tmp_path, cloud, form):
    file = tmp_path / "named.otherwise"
    file.write_bytes(ply(cloud, form))
    found = read_cloud(file)
    check(found, cloud)
    assert found.faces.tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 6]]
    form = form.replace("_", " ")
    assert found.found == f"PLY ({form}): 40 points; {' '.join(NAMES)}; 3 triangles"
    file.write_bytes(ply(cloud, form.replace(" ", "_"), faces=()))
    assert read_cloud(file).faces is None


@pytest.mark.parametrize("form", FORMS)
def test_ply_that_is_cut_is_refused_wherever_it_is_cut(tmp_path, cloud, form):
    file, data = tmp_path / "cut.ply", ply(cloud, form)
    for end in (3, 60, 200, data.index(b"end_header") + 11, len(data) // 2):
        file.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut\.ply: "):
            read_cloud(file)
    file.write_bytes(data[:-7])
    with pytest.raises(ValueError, match=r"not a whole PLY file|expected corners"):
        read_cloud(file)


@pytest.mark.parametrize("form", FORMS)
def test_ply_vertices_with_lists_of_their_own(tmp_path, form):
    head = f"ply\nformat {form} 1.0\nelement vertex 2\nproperty float x\n"
    head += "property list uchar short around\nproperty float y\nproperty float z\n"
    head += "end_header\n"
    order = ">" if "big" in form else "<"
    for lists in (((1, 2), (3, 4)), ((1,), (2, 3))):
        body = b""
        for around in lists:
            if form == "ascii":
                words = [0.5, len(around), *around, 1, 2]
                body += (" ".join(map(str, words)) + "\n").encode()
            else:
                form_ = f"{order}fB{len(around)}hff"
                body += struct.pack(form_, 0.5, len(around), *around, 1, 2)
        file = tmp_path / "lists.ply"
        file.write_bytes(head.encode() + body)
        found = read_cloud(file)
        assert found.points.tolist() == [[0.5, 1, 2]] * 2
        assert [tuple(row) for row in found.columns["around"]] == list(lists)


def test_ply_of_another_program(tmp_path, cloud):
    pyvista = pytest.importorskip("pyvista")
    sphere = pyvista.Sphere(theta_resolution=8, phi_resolution=6)
    for binary in (True, False):
        sphere.save(tmp_path / "sphere.ply", binary=binary)
        found = read_cloud(tmp_path / "sphere.ply")
        np.testing.assert_allclose(found.points, sphere.points, atol=1e-6)
        np.testing.assert_array_equal(found.faces, sphere.faces.reshape(-1, 4)[:, 1:])


def packed(data):
    """LZF by the plainest rules: copies of up to nine bytes, else literals."""
    out, plain, at = bytearray(), bytearray(), 0

    def flush():
        for i in range(0, len(plain), 32):
            piece = plain[i : i + 32]
            out.extend([len(piece) - 1, *piece])
        plain.clear()

    while at < len(data):
        start = data.rfind(data[at : at + 3], max(0, at - 8000), at + 2)
        if at + 3 <= len(data) and 0 <= start < at:
            length = 3
            while (
                length < 200
                and at + length < len(data)
                and data[start + length] == data[at + length]
            ):
                length += 1
            flush()
            back, code = at - start - 1, length - 2
            if code < 7:
                out.extend([(code << 5) | (back >> 8), back & 255])
            else:
                out.extend([(7 << 5) | (back >> 8), code - 7, back & 255])
            at += length
        else:
            plain.append(data[at])
            at += 1
    flush()
    return struct.pack("<2I", len(out), len(data)) + bytes(out)


def pcd(cloud, kind, rgb="F"):
    names = [
        "x",
        "y",
        "z",
        "normal_x",
        "normal_y",
        "normal_z",
        "rgb",
        "_",
        "label",
        "quality",
        "fpfh",
    ]
    kinds, sizes = f"F F F F F F {rgb} U I F F", "4 4 4 4 4 4 4 1 4 4 4"
    bits = (cloud["colors"].astype(np.uint32) << [16, 8, 0]).sum(1).astype(np.uint32)
    dtype = [(n, "<f4") for n in names[:6]]
    dtype += [("rgb", "<u4"), ("_", "u1", (3,)), ("label", "<i4")]
    dtype += [("quality", "<f4"), ("fpfh", "<f4", (2,))]
    rows = np.zeros(N, dtype)
    for name, values in zip((*names[:6],), columns(cloud)[:6], strict=True):
        rows[name] = values
    rows["rgb"], rows["label"] = bits, cloud["labels"]
    rows["quality"], rows["fpfh"] = cloud["quality"], [1, 2]
    head = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
    head += f"FIELDS {' '.join(names)}\nSIZE {sizes}\nTYPE {kinds}\n"
    head += "COUNT 1 1 1 1 1 1 1 3 1 1 2\nWIDTH 20\nHEIGHT 2\nVIEWPOINT 0 0 0 1 0 0 0\n"
    head += f"POINTS {N}\nDATA {kind}\n"
    if kind == "binary":
        body = rows.tobytes()
    elif kind == "binary_compressed":
        body = packed(b"".join(rows[n].tobytes() for n in names))
    else:
        lines = []
        for row in rows:
            words = []
            for name in names:
                value = row[name]
                if name == "rgb" and rgb == "F":
                    value = np.uint32(value).view(np.float32)
                words += [repr(v) for v in np.atleast_1d(value).tolist()]
            lines.append(" ".join(words))
        body = "\n".join(lines).encode()
    return head.encode() + body


@pytest.mark.parametrize("rgb", ["F", "U"])
@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path, cloud, kind, rgb):
    file = tmp_path / "cloud.pcd"
    data = pcd(cloud, kind, rgb)
    file.write_bytes(data)
    found = read_cloud(file)
    fpfh = found.columns.pop("fpfh")
    assert np.array_equal(fpfh, [[1, 2]] * N)
    check(found, cloud)
    assert found.found.startswith(f"PCD ({kind}): 40 points; x y z normal_x")
    for end in (30, 150, len(data) // 2, len(data) - 80):
        file.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cloud\.pcd"):
            read_cloud(file)


def test_compressed_runs_that_overlap(tmp_path):
    points = np.zeros((500, 3), "<f4")
    points[::7] = 1
    head = b"VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 500\nHEIGHT 1\n"
    body = packed(points.T.tobytes())
    assert len(body) < 2000
    (tmp_path / "a.pcd").write_bytes(head + b"DATA binary_compressed\n" + body)
    assert np.array_equal(read_cloud(tmp_path / "a.pcd").points, points)


@pytest.mark.parametrize("mark", [" ", "\t", ",", ";", ", "])
@pytest.mark.parametrize("header", [False, True])
def test_tables(tmp_path, cloud, mark, header):
    rows = [mark.join(map(repr, row)) for row in table(cloud)[NAMES[:10]].tolist()]
    if header:
        rows.insert(0, mark.join(NAMES[:10]))
    file = tmp_path / "cloud.txt"
    file.write_text("# a comment\n\n" + "\n".join(rows) + "\n")
    found = read_cloud(file)
    cloud["quality"] = np.zeros(N)
    found.columns["quality"] = np.zeros(N)
    check(found, cloud, exact=False)
    assert ("header" in found.found) == header
    assert found.found.endswith(" ".join(NAMES[:10]))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0 0 0\n1 0 0\n", "x y z"),
        ("2\n0 0 0\n1 0 0\n", "x y z"),
        ("0 0 0 0 0 1\n1 0 0 0 1 0\n", "x y z nx ny nz"),
        ("0 0 0 0 0 200\n1 0 0 7 1 0\n", "x y z red green blue"),
        ("0 0 0 0 0 200 255\n1 0 0 7 1 0 255\n", "x y z red green blue alpha"),
        ("0 0 0 0.5 0.1 0.2\n1 0 0 .1 .2 .3\n", "x y z column_3 column_4 column_5"),
        ("0 0 0 0.25\n1 0 0 0.5\n", "x y z column_3"),
        ("0 0 0 0 0 9 1 0 0\n1 0 0 7 1 0 0 1 0\n", "x y z red green blue nx ny nz"),
        ("//X,Y,Z,R,G,B\n0,0,0,1,1,1\n", "X Y Z R G B"),
        ("Points:0,Points:1,Points:2,Normals:0,Normals:1,Normals:2\n0,0,0,0,0,1\n", ""),
        ("label;x;y;z\n3;0,5;1;2\n", "label x y z"),
        ('"x","y","z","part"\n0,0,0,leg\n1,0,0,seat\n', "x y z part"),
        ("\ufeffx y z\r\n0 0 0\r\n1 1 1\r\n", "x y z"),
    ],
)
def test_tables_as_programs_write_them(tmp_path, text, names):
    file = tmp_path / "cloud.xyz"
    file.write_text(text, encoding="utf-8")
    found = read_cloud(file)
    assert found.found.endswith(names)
    assert found.points.shape[1] == 3
    if "column_3" not in names:
        assert not found.columns


def test_names_given_by_hand(tmp_path):
    file = tmp_path / "cloud.txt"
    file.write_text("7 0 0 1 5\n8 1 0 0 6\n")
    found = read_cloud(file, columns=["intensity", "x", "y", "z", "label"])
    assert found.points.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert found.columns["intensity"].tolist() == [7, 8]
    assert found.labels.tolist() == [5, 6]
    with pytest.raises(ValueError, match="columns: expected a name for each of the 5"):
        read_cloud(file, columns=["x", "y", "z"])
    with pytest.raises(ValueError, match="expected columns x, y and z"):
        read_cloud(file, columns=list("abcde"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "found no line of numbers"),
        ("1 2\n3 4\n", "expected three or more columns, found 2"),
        ("0 0 0\n1 0\n2 0 0\n", "line 2: expected 3 columns"),
        ("0 0 0\n1 O 0\n2 0 0\n", "line 2: expected a number in column 2, found 'O'"),
        ("3\n0 0 0\n1 0 0\n", "line 1: expected the number of points, 2, found '3'"),
        ("a,b,c\n0,0,0\n", "expected columns x, y and z of numbers, found a, b, c"),
        ("x,y,z\n0,0,0,1\n", "the header names 3 columns, the lines have 4"),
        ("hello world out there\n", "found no line of numbers"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    file = tmp_path / "cloud.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_cloud(file)
    assert "cloud.csv" in str(caught.value)


def test_arrays(tmp_path, cloud):
    whole = table(cloud)[NAMES[:10]]
    wide = np.column_stack(columns(cloud)[:10])
    np.save(tmp_path / "wide.npy", wide)
    np.save(tmp_path / "fields.npy", table(cloud))
    check(read_cloud(tmp_path / "fields.npy"), cloud)
    np.savez(tmp_path / "named.npz", **cloud)
    check(read_cloud(tmp_path / "named.npz"), cloud)
    np.savez(tmp_path / "ml.npz", X=cloud["points"], y=cloud["labels"], meta=np.ones(3))
    found = read_cloud(tmp_path / "ml.npz")
    assert np.array_equal(found.points, cloud["points"])
    assert np.array_equal(found.labels, cloud["labels"])
    found = read_cloud(tmp_path / "wide.npy")
    assert np.array_equal(found.points, cloud["points"])
    assert np.array_equal(found.labels, whole["label"])
    np.save(tmp_path / "many.npy", np.zeros((4, 9, 3)))
    with pytest.raises(ValueError, match=r"these are several clouds: np\.load"):
        read_cloud(tmp_path / "many.npy")
    np.savez(tmp_path / "other.npz", weights=np.zeros((4, 9)), bias=np.zeros(4))
    with pytest.raises(ValueError, match=r"named 'points' or 'xyz', found weights"):
        read_cloud(tmp_path / "other.npz")


class Payload:
    def __reduce__(self):
        return exec, ("raise RuntimeError('executed')",)


def test_nothing_is_executed(tmp_path):
    objects = np.array([Payload()], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "b.npz", points=objects, other=np.ones(3))
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Payload()))
    for name in ("a.npy", "b.npz", "c.pkl", "d.npy"):
        with pytest.raises(ValueError, match="can run a program"):
            read_cloud(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "data", "hint"),
    [
        ("a.las", b"LASF" + bytes(300), "LAS; convert it: .*laspy"),
        ("a.stl", b"\0" * 100, "STL; convert it: trimesh"),
        ("a.obj", b"v 0 0 0\n", "OBJ; convert it: trimesh"),
        ("a.ply", b"\x1f\x8b" + bytes(20), "GZ; convert it: the unpacked file"),
        ("a.xyz", b"\x01\x00\x02" * 30, "neither text nor a format that is known"),
    ],
)
def test_other_formats_are_refused_with_a_way_out(tmp_path, name, data, hint):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=hint):
        read_cloud(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_cloud(tmp_path / "nothing.ply")


def test_points_that_a_scanner_did_not_see_are_kept(tmp_path):
    (tmp_path / "a.pcd").write_text(
        "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\n"
        "HEIGHT 1\nPOINTS 2\nDATA ascii\nnan nan nan\n1 2 3\n"
    )
    points = read_cloud(tmp_path / "a.pcd").points
    assert np.isnan(points[0]).all()
    assert points[1].tolist() == [1, 2, 3]


def test_a_classifier_learns_from_files(tmp_path):
    rng = np.random.default_rng(0)
    clouds = []
    for i in range(8):
        points = rng.standard_normal((30 + i, 3)) * [1, 1, 0.1 if i % 2 else 1]
        np.savetxt(tmp_path / f"{i}.xyz", points)
        clouds.append(read_cloud(tmp_path / f"{i}.xyz").points)
    model = PointCloudClassifier(
        "pointnet", n_points=30, max_epochs=1, model_options={"width": 0.1}
    )
    assert model.fit(clouds, [0, 1] * 4).predict(clouds).shape == (8,)


def test_off_normals_and_colors(tmp_path):
    file = tmp_path / "a.off"
    file.write_text("CNOFF\n1 0 0\n1 2 3  0 0 1  255 0 0 255\n")
    found = read_cloud(file)
    assert found.normals.tolist() == [[0, 0, 1]]
    assert found.colors.tolist() == [[255, 0, 0, 255]]
    assert found.found == "CNOFF: 1 points; x y z nx ny nz red green blue alpha"
    assert read_off(file).faces.shape == (0, 3)
