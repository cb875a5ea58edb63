"""One dump of a source at a time on a client: waited for, told, and no kill and no other user keeps it taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import agent_file
import pytest
from agent_peer import Peer

from backupcore.agent import alone
from backupcore.errors import SourceBusy

SOON = ("alone", b"WAIT = 20.0", b"WAIT = 0.5")
TAKER = """
import os, socket, sys, time
if sys.argv[2] != "0":
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
taken = socket.socket(socket.AF_UNIX)
taken.bind(bytes.fromhex(sys.argv[1]))
if sys.argv[3] == "listen":
    taken.listen(5)
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def peer(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("f")
    made = Peer(tmp_path / "agent")
    agent_file.put(made.pyz, (*agent_file.HURRY, SOON))
    made.declare("s", tmp_path / "tree")
    return made


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def held(place):
    """A script that says it began, and ends when it is told to."""
    return f"touch {place}.began; while [ ! -e {place}.go ]; do sleep 0.05; done; echo script >>{place}.log"


def refused(peer, source="s"):
    talk = peer.start()
    try:
        talk.ask(talk.request(source, None))
        with pytest.raises(SourceBusy) as caught:
            talk.take()
        return caught.value
    finally:
        talk.end()


def test_a_second_dump_of_a_source_is_told_who_is_at_it_and_another_source_is_not(peer, tmp_path):
    peer.declare("other", tmp_path / "tree")
    peer.declare("s", tmp_path / "tree", before=held(tmp_path / "a"))
    first = peer.start()
    try:
        first.ask(first.request("s", None))
        until((tmp_path / "a.began").exists)
        error = refused(peer)
        assert error.message.startswith("source s is being dumped on this client already, by process %d since 2"
                                        % first.process.pid)  # fmt: skip
        assert error.again and error.hint
        assert peer.dump("other").rows()
        (tmp_path / "a.go").touch()
        assert first.take().rows()
    finally:
        first.end()
    assert peer.dump("s").rows()


def test_what_must_run_after_the_dump_of_a_killed_agent_is_waited_for(peer, tmp_path):
    peer.declare("s", tmp_path / "tree", before=f"touch {tmp_path}/b; sleep 60", after=held(tmp_path / "a"))
    first = peer.start()
    try:
        first.ask(first.request("s", None))
        until((tmp_path / "b").exists)
        first.process.send_signal(signal.SIGKILL)
        until((tmp_path / "a.began").exists)
        first.process.wait(60)
        error = refused(peer)
        assert f"by process {first.process.pid}, which has ended; what must run after its dump has not" in error.message
    finally:
        first.end()
    peer.declare("s", tmp_path / "tree", before=f"cat {tmp_path}/a.log")  # else it fails: that one's script was first
    agent_file.put(peer.pyz, agent_file.HURRY)
    second = peer.start()
    try:
        second.ask(second.request("s", None))
        (tmp_path / "a.go").touch()
        assert second.take().rows()
    finally:
        second.end()


@pytest.fixture
def taker(peer):
    """Somebody who takes the name of the source's lock first."""
    made = []

    def take(user=0, how="listen"):
        name = alone._name(str(peer.config), "web1", "s").hex()
        words = [sys.executable, "-c", TAKER, name, str(user), how]
        made.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert made[-1].stdout.readline() == b"taken\n"
        return made[-1]

    yield take
    for child in made:
        child.kill()
        child.communicate()


def took(peer):
    begun = time.monotonic()
    lock = alone.take(str(peer.config), "web1", "s")
    if lock is not None:
        lock.close()
    return lock is not None, time.monotonic() - begun


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_keeps_nobody_out(peer, taker):
    taker(65534)
    found, seconds = took(peer)
    assert not found and seconds < alone.WAIT - 5
    assert peer.dump("s").rows()


def test_a_name_of_which_nobody_says_whose_it_is_keeps_nobody_out_for_long(peer, taker, monkeypatch):
    monkeypatch.setattr(alone, "SETTLE", 0.3)
    taker(how="mute")
    assert not took(peer)[0]


def test_a_lock_dies_with_its_owner_and_is_the_same_when_the_file_is_written_anew(peer, taker, monkeypatch):
    monkeypatch.setattr(alone, "WAIT", 0.3)
    child = taker()
    peer.write({"schema": 1, "client": "web1", "sources": peer.sources})
    os.replace(peer.config, f"{peer.config}.new")
    os.replace(f"{peer.config}.new", peer.config)
    with pytest.raises(SourceBusy, match=f"by process {child.pid} since 2"):
        took(peer)
    child.kill()
    child.wait()
    assert took(peer)[0]
    assert alone._name(str(peer.config), "web1", "s") != alone._name(str(peer.config), "web2", "s")
