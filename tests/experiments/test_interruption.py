"""A killed run, resumed, ends with the figures of a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from manifoldkit import cli
from manifoldkit.experiments.lie import rotation_continuity

pytest.importorskip("lightning")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
QUICK = ("run", "rotation_continuity", "--quick", "--seed", "3")
SMALLER = """
from manifoldkit.experiments.lie import rotation_continuity as e
e.QUICK = {task: 5 for task in e.QUICK}
e.score_clouds = lambda rep, steps, **rest: e.score_autoencoder(rep, steps, **rest)
"""
# the third piece takes until the signal comes, however busy the machine is
SLOWER = """
import time
from manifoldkit.experiments.evaluation import Store
get = Store.get
def slow(self, key, make, *arguments, **options):
    def piece():
        time.sleep(60 if len(self.content["pieces"]) == 2 else 0)
        return make(*arguments, **options)
    return get(self, key, piece)
Store.get = slow
"""
ENDS = {"kill": signal.SIGKILL, "ctrl-c": signal.SIGINT}


def start(folder):
    # a shell may have started the tests with SIGINT ignored, which children inherit
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = heed + SMALLER + SLOWER + "from manifoldkit.cli import app\napp()"
    command = [sys.executable, "-c", code, *QUICK, "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for_pieces(process, folder, count, seconds=120):
    """Wait until some pieces of the run are stored, in the middle of the next one."""
    file, end = folder / "progress.json", time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and len(json.loads(file.read_text())["pieces"]) >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"no {count} pieces: {process.communicate()[0].decode()[-2000:]}")


@pytest.fixture(scope="module", autouse=True)
def _smaller():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("QUICK", "score_clouds"):
            patch.setattr(rotation_continuity, name, getattr(rotation_continuity, name))
        exec(SMALLER, {})
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("whole"))


def finish(folder, *options):
    result = CliRunner().invoke(cli.app, [*QUICK, "--out", str(folder), *options])
    assert result.exit_code == 0, result.output
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("end", ENDS)
def test_an_interrupted_command_can_be_resumed(end, whole, tmp_path):
    with start(tmp_path) as process:
        wait_for_pieces(process, tmp_path, 2)
        process.send_signal(ENDS[end])
        output = process.communicate(timeout=60)[0].decode()
    if end == "kill":
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert f"interrupted; go on with --resume --out {tmp_path}" in output
    assert not (tmp_path / "result.json").exists()
    before = json.loads((tmp_path / "progress.json").read_text())["pieces"]
    assert 2 <= len(before) < 8
    resumed = finish(tmp_path, "--resume")
    after = json.loads((tmp_path / "progress.json").read_text())["pieces"]
    assert {key: after[key] for key in before} == before
    for key in ("metrics", "remarks", "protocol", "seeds", "data"):
        assert resumed[key] == whole[key], key


def test_resume_refuses_other_settings(whole, tmp_path):
    (tmp_path / "progress.json").write_text(
        json.dumps({"settings": {"quick": True, "seed": 4}, "pieces": {}})
    )
    arguments = [*QUICK, "--out", str(tmp_path), "--resume"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert "belongs to a run with" in result.output
