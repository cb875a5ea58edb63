"""The agent on the oldest and the newest Python it promises, with a zstd library and without."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_peer import Peer, Talk

from backupcore.errors import SourceFailed

_SPEC = importlib.util.spec_from_file_location("lab_tree", Path(__file__).parents[3] / "lab" / "tree.py")
lab = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lab)
PYTHONS = ("3.8.18", "3.13.0")


def python(version: str) -> str:
    """A Python of that version; a machine without it fails, since silence would look like success."""
    for place in (Path.home() / ".pyenv/versions" / version / "bin/python", shutil.which("python" + version[:-3])):
        if place and Path(place).exists():
            return str(place)
    return pytest.fail("there is no Python %s: install it with pyenv" % version)


def chain(tmp_path, program: str, prefix=()) -> str:
    """A full and two incrementals of the hostile tree, opened by tar at each moment; the codec."""
    tree, out = tmp_path / "tree", tmp_path / "chain"
    lab.make_hostile_tree(tree)
    peer = Peer(tmp_path / "agent", program).hurry()
    peer.declare("s", tree)
    if prefix:
        argv = [*prefix, program, "-I", str(peer.pyz), "--config", str(peer.config), "serve"]
        peer.start = lambda: Talk(argv)
    out.mkdir()
    time.sleep(0.15)
    got = None
    for step in range(3):
        if step:
            lab.change_hostile_tree(tree, step)
        moment = lab.snapshot(tree)
        got = peer.dump(base=got)
        got.unpack(out)
        assert lab.differences(moment, lab.snapshot(out)) == []
    time.sleep(0.15)
    with pytest.raises(SourceFailed, match="no zstd library") if got.start["codec"] == "gzip" else _nothing():
        peer.dump(gzip_fallback=False)
    shutil.rmtree(tree)
    return got.start["codec"]


class _nothing:  # noqa: N801
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_a_chain_by_old_and_new_pythons(tmp_path, version):
    assert chain(tmp_path, python(version)) == "zstd"


def hidden_zstd(tmp_path) -> list:
    """What runs a program with every zstd library hidden from it."""
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    libraries = sorted({os.path.realpath(line.split("=> ")[1]) for line in found.splitlines() if "libzstd.so" in line})
    assert libraries
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    mounts = "".join("mount --bind %s %s; " % (empty, library) for library in libraries)
    return ["unshare", "--mount", "sh", "-c", mounts + 'exec "$@"', "sh"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to hide a library")
@pytest.mark.parametrize("version", PYTHONS)
def test_a_chain_without_a_zstd_library_is_gzip(tmp_path, version):
    assert chain(tmp_path, python(version), hidden_zstd(tmp_path)) == "gzip"


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_nothing_is_said_on_standard_error(tmp_path, version):
    tree = tmp_path / "tree"
    tree.mkdir()
    peer = Peer(tmp_path / "agent", python(version))
    peer.declare("s", tree)
    argv = [peer.python, "-W", "error", "-I", str(peer.pyz), "--config", str(peer.config), "hello"]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert not done.stderr
    assert not peer.dump().stderr


def test_a_python_too_old_is_told(tmp_path):
    old = Path.home() / ".pyenv/versions/3.7.16/bin/python"
    peer = Peer(tmp_path / "agent", str(old) if old.exists() else sys.executable)
    done = subprocess.run([peer.python, "-I", str(peer.pyz)], capture_output=True, text=True)
    if old.exists():
        assert done.returncode == 1 and done.stderr.startswith("the agent of Stowage needs Python 3.8 or newer")
    else:
        assert done.returncode == 2
