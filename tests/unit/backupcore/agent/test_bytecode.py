"""The byte code kept beside agent.pyz: quicker, never other code, and nothing but root's own file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_peer import Peer

ASK = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from backupcore.agent import bytecode\n"
    "used = bytecode.use(sys.argv[1])\n"
    "from backupcore.agent import serve\n"
    "import backupcore.image.pax, backupcore.agent.tree\n"
    "print(used, type(serve.__loader__).__name__, serve.__file__, bool(serve.__loader__.get_source(serve.__name__)))\n"
)
ROOT = Path(__file__).resolve().parents[4]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps byte code")


@pytest.fixture
def peer(tmp_path):
    tmp_path.chmod(0o755)
    found = Peer(tmp_path / "here", code=False)
    (tmp_path / "tree").mkdir()
    (tmp_path / "conf").mkdir(mode=0o755)
    found.config = tmp_path / "conf" / "agent.json"  # in a folder of its own: it refuses one that others may write
    found.declare("s", tmp_path / "tree")
    return found


def code(peer):
    return peer.folder / "agent.pyz.code"


def ask(peer):
    done = subprocess.run([sys.executable, "-I", "-B", "-c", ASK, str(peer.pyz)], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.split()


def test_the_first_run_keeps_it_and_the_next_uses_it(peer):
    serve = str(peer.pyz) + "/backupcore/agent/serve.py"
    assert ask(peer) == ["False", "zipimporter", serve, "True"]
    first = peer.dump()
    assert sorted(os.listdir(peer.folder)) == ["agent.pyz", "agent.pyz.code"]
    assert code(peer).stat().st_mode & 0o777 == 0o644
    assert ask(peer) == ["True", "Code", serve, "True"]
    kept = code(peer).stat()
    second = peer.dump("s", first)
    assert second.done["changed"] == 0
    assert code(peer).stat().st_ino == kept.st_ino  # not written again


def test_no_other_agents_code_is_used(peer):
    peer.dump()
    old = code(peer).read_bytes()
    peer.hurry()  # another agent.pyz
    assert ask(peer)[0] == "False"
    peer.dump()
    assert code(peer).read_bytes() != old
    assert ask(peer)[:2] == ["True", "Code"]


@pytest.mark.parametrize("harm", ["byte", "cut", "empty", "group", "owner", "folder", "link", "fifo", "python"])
def test_what_root_alone_did_not_write_is_not_used(peer, harm):
    peer.dump()
    path = code(peer)
    data = path.read_bytes()
    if harm == "byte":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif harm == "cut":
        path.write_bytes(data[:-1000])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "group":
        path.chmod(0o664)
    elif harm == "owner":
        os.chown(path, 1234, 0)
    elif harm == "folder":
        peer.folder.chmod(0o775)
    elif harm == "link":
        path.rename(peer.folder / "other")
        path.symlink_to("other")
    elif harm == "fifo":
        path.unlink()
        os.mkfifo(path)
    else:
        place = len(b"Stowage byte code 2\n") + 32  # which Python it is
        path.write_bytes(data[:place] + bytes(32) + data[place + 32 :])
    assert ask(peer)[0] == "False"
    assert peer.dump().done["entries"] == 1  # and the agent works as without it


def test_where_others_write_nothing_is_kept(peer):
    peer.folder.chmod(0o777)
    peer.dump()
    assert not code(peer).exists()


def test_looking_and_unpacking_keep_nothing(peer):
    done = subprocess.run(
        [sys.executable, "-I", str(peer.pyz), "--config", str(peer.config), "hello"], capture_output=True
    )
    assert not done.returncode and not code(peer).exists()


def test_agent_pyz_is_read_again_only_when_it_is_another_file_or_was_written_to(peer):
    # where agent.pyz is read, this digest is no digest
    asking = (
        "import sys\nfrom backupcore.agent import bytecode, hashes\nhashes.own = lambda data: None\n"
        "try:\n    print(bytecode.use(sys.argv[1]))\nexcept AttributeError:\n    print('read')\n"
    )

    def used() -> str:
        done = subprocess.run([sys.executable, "-c", asking, str(peer.pyz)], capture_output=True, text=True, cwd=ROOT)
        return done.stdout.strip() or done.stderr

    peer.dump()
    assert used() == "read"  # it was made a moment before: its times tell too little
    code(peer).unlink()
    time.sleep(1.1)
    peer.dump()
    assert used() == "True"
    data = bytearray(peer.pyz.read_bytes())
    data[-1] ^= 1
    peer.pyz.write_bytes(data)
    assert used() == "read" and ask(peer)[0] == "False"
