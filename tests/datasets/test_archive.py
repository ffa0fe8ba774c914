"""Finding, reading and storing archives, and every way in which that can fail."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from manifoldkit.datasets.archive import (
    Source,
    check_array,
    data_folder,
    find_archive,
    obtain,
    read_archive,
    write_archive,
)
from manifoldkit.exceptions import DatasetNotFoundError, MissingExtraError

SOURCE = Source("eeg/toy.npz", "https://example.org/toy", "Call fetch_toy.", 1234, "ab")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Keep the user's cache and data folder out of it."""
    monkeypatch.delenv("MANIFOLDKIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def arrays():
    return {"X": np.arange(6.0), "y": np.array(["a", "b"])}


def test_round_trip(tmp_path, arrays):
    file = write_archive(tmp_path / "new" / "toy.npz", arrays)
    back = read_archive(file, ["X"])
    assert back.keys() == arrays.keys()
    np.testing.assert_array_equal(back["X"], arrays["X"])
    assert [p.name for p in file.parent.iterdir()] == ["toy.npz"]


def test_lookup_order(tmp_path, arrays, monkeypatch):
    cache, data, given = (tmp_path / name for name in ("cache", "data", "given"))
    assert find_archive(SOURCE.relative) is None
    cached = write_archive(cache / "manifoldkit" / SOURCE.relative, arrays)
    assert find_archive(SOURCE.relative) == cached
    monkeypatch.setenv("MANIFOLDKIT_DATA", str(data))
    assert find_archive(SOURCE.relative) == cached
    shared = write_archive(data / SOURCE.relative, arrays)
    assert find_archive(SOURCE.relative) == shared
    assert data_folder() == data
    flat = write_archive(given / "toy.npz", arrays)
    assert find_archive(SOURCE.relative, given) == flat
    assert find_archive(SOURCE.relative, flat) == flat
    assert find_archive(SOURCE.relative, tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-60]),
        lambda file: file.write_bytes(b"not an archive"),
        lambda file: file.write_bytes(b""),
        lambda file: np.savez(file, X=np.array([{}], dtype=object)),
    ],
    ids=["truncated", "other file", "empty", "pickled objects"],
)
def test_damaged_archive_gives_one_clear_error(damage, tmp_path, arrays):
    file = write_archive(tmp_path / "toy.npz", arrays)
    damage(file)
    with pytest.raises(ValueError, match=r"toy\.npz cannot be read .*fetch it again"):
        read_archive(file)


def test_flipped_bytes_are_noticed(tmp_path):
    values = np.random.default_rng(0).standard_normal(5000)
    file = write_archive(tmp_path / "toy.npz", {"X": values})
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read_archive(file)


def test_missing_key_is_named(tmp_path, arrays):
    file = write_archive(tmp_path / "toy.npz", arrays)
    with pytest.raises(ValueError, match="it has no session"):
        read_archive(file, ["X", "session"])


def test_only_the_keys_asked_for_are_read(tmp_path, arrays):
    file = write_archive(tmp_path / "toy.npz", arrays)
    assert read_archive(file, ["X"], only=True).keys() == {"X"}


@pytest.mark.parametrize(
    ("array", "shape", "kinds", "message"),
    [
        (np.ones((2, 3)), (None, 4), "iuf", r"X has shape \(2, 3\) .* shape \(n, 4\)"),
        (np.ones(2), (None, 2), "iuf", "expected numbers of shape"),
        (np.ones(2), (2,), "iu", "dtype float64, expected integers"),
        (np.ones(2, bool), (2,), "iuf", "dtype bool, expected numbers"),
        (np.ones(2, np.uint16), (2,), ("uint8",), "dtype uint16, expected uint8"),
        (np.ones(2), (2,), "U", "expected text"),
        (np.array([1, np.nan]), (2,), "iuf", "X is not finite"),
    ],
)
def test_arrays_of_another_form_are_refused(array, shape, kinds, message, tmp_path):
    with pytest.raises(ValueError, match=rf"toy.npz is not the archive .*{message}"):
        check_array(tmp_path / "toy.npz", "X", array, shape, kinds)


def test_arrays_of_the_form_expected_pass(tmp_path):
    for array, shape, kinds in (
        (np.ones((2, 3), np.float32), (None, 3), "iuf"),
        (np.array(1.0), (), "iuf"),
        (np.array(["a"]), (None,), "U"),
        (np.ones(2, np.uint8), (2,), ("uint8",)),
    ):
        check_array(tmp_path / "toy.npz", "X", array, shape, kinds)


def test_offline_error_says_what_to_do(tmp_path):
    with pytest.raises(DatasetNotFoundError) as error:
        obtain(SOURCE, dict, tmp_path, download=False)
    for part in ("toy.npz", "0.0 MB", "SHA-256 ab", "example.org", str(tmp_path)):
        assert part in str(error.value)
    assert isinstance(error.value, FileNotFoundError)


def test_download_is_stored_and_found_again(tmp_path, arrays):
    calls = []

    def convert():
        calls.append(1)
        return arrays

    file = obtain(SOURCE, convert, tmp_path)
    assert file == tmp_path / SOURCE.relative
    assert obtain(SOURCE, convert, tmp_path) == file
    assert len(calls) == 1


def test_interrupted_download_leaves_nothing(tmp_path, arrays, monkeypatch):
    def broken():
        raise ConnectionError("the line went dead")

    with pytest.raises(DatasetNotFoundError, match="the line went dead"):
        obtain(SOURCE, broken, tmp_path)

    def interrupted(stream, **_):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        obtain(SOURCE, lambda: arrays, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_missing_extra_passes_through(tmp_path):
    def convert():
        raise MissingExtraError("fetch_toy", "mne", "eeg")

    with pytest.raises(MissingExtraError, match=r"manifoldkit\[eeg\]"):
        obtain(SOURCE, convert, tmp_path)


def test_unwritable_folder(tmp_path, arrays):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write .*MANIFOLDKIT_DATA"):
        write_archive(blocker / "toy.npz", arrays)


def test_unwritable_folder_is_noticed_before_the_download(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")

    def convert():
        raise AssertionError("downloaded in vain")

    with pytest.raises(OSError, match=r"cannot write .*MANIFOLDKIT_DATA"):
        obtain(SOURCE, convert, blocker / "folder")


def test_archives_have_the_usual_permissions(tmp_path, arrays):
    """A cache that several users share stays readable to them."""
    plain = tmp_path / "plain"
    plain.touch()
    file = write_archive(tmp_path / "toy.npz", arrays)
    assert file.stat().st_mode == plain.stat().st_mode


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path, arrays):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="path="):
        write_archive(tmp_path / "toy.npz", arrays)


def test_readers_never_see_half_a_file(tmp_path):
    """Two processes store the same archive while this one reads it."""
    file = tmp_path / "toy.npz"
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from manifoldkit.datasets.archive import write_archive\n"
        "x = np.random.default_rng(0).standard_normal(20000)\n"
        "for _ in range(30): write_archive(Path(sys.argv[1]), {'X': x})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, file]) for _ in range(2)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            assert read_archive(file)["X"].shape == (20000,)
            reads += 1
    assert reads > 0
    assert [writer.wait() for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [file]


def test_parallel_writers_leave_one_whole_file(tmp_path, arrays):
    file = tmp_path / "toy.npz"
    threads = [
        threading.Thread(target=write_archive, args=(file, arrays)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_archive(file).keys() == arrays.keys()
    assert list(tmp_path.iterdir()) == [file]


_CONVERT = """
import sys, time
from pathlib import Path
import numpy as np
from manifoldkit.datasets.archive import Source, obtain

folder = Path(sys.argv[1])

def convert():
    (folder / "originals").mkdir()  # fails where two convert at once
    time.sleep(0.3)
    (folder / "originals").rmdir()
    with open(folder / "count", "a") as stream:
        stream.write("x")
    return {"a": np.arange(3)}

print(obtain(Source("kind/a.npz", "nobody", ""), convert, folder))
"""


def test_of_six_processes_one_converts_and_the_others_wait(tmp_path):
    command = [sys.executable, "-c", _CONVERT, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for job in jobs:
        out, err = job.communicate(timeout=120)
        assert out.strip() == str(tmp_path / "kind" / "a.npz"), err
    assert (tmp_path / "count").read_text() == "x"


def test_a_turn_ends_with_its_process(tmp_path, arrays):
    script = "import os\n" + _CONVERT.replace("time.sleep(0.3)", "os._exit(1)")
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    source = Source("kind/a.npz", "nobody", "")
    assert obtain(source, lambda: arrays, tmp_path).is_file()


def test_a_folder_that_is_not_there_is_told(tmp_path):
    source = Source("kind/a.npz", "nobody", "")
    with pytest.raises(DatasetNotFoundError, match=r"there is no folder .*typo"):
        obtain(source, dict, tmp_path / "typo", download=False)
    with pytest.raises(DatasetNotFoundError) as caught:
        obtain(source, dict, tmp_path, download=False)
    assert "no folder" not in str(caught.value)
