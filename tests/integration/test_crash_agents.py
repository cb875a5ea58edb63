"""Agents end when the line does, whatever they are at, and so do their sources' scripts; killed, they leave none."""

from __future__ import annotations

import os
import signal
import time

import crash_world
import pytest
from cli_lab import Server
from powercut import PowerCut

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sshd's and agents as root")
WITHIN = 90.0  # 5 s till it looks, 10 s for a file system that does not answer, and a machine that is busy
ADDRESS = "127.77.15.1"


@pytest.fixture
def server(tmp_path):
    base = tmp_path / "server"
    base.mkdir()
    made = Server(base)
    (base / "tree").mkdir()
    (base / "tree" / "file").write_bytes(b"content")
    made.write(drill={"nightly": False}, verify={"night": 0})
    yield made
    made.close()
    for line in crash_world.processes(f"{base}/"):
        os.kill(int(line.split()[0]), signal.SIGKILL)  # a test that failed leaves nothing either


@pytest.fixture
def runner(server, tmp_path):
    with crash_world.Runner(tmp_path / "runner", server.base / "stowage.yml") as made:
        yield made


def scripts(base, before):
    """A source whose scripts say what they do. Names of base stand in their words, so that they are found."""
    said = {"before": f"touch {base}/began; {before}; true", "after": f"echo after >>{base}/ended"}
    return {"data": {"path": str(base / "tree"), **said}}


def until(condition, what):
    deadline = time.monotonic() + WITHIN
    while not (found := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.05)
    return found


def ours(server):
    """Agents, scripts and ssh's that live."""
    found = crash_world.processes(f"{server.base}/")
    return [one for one in found if "sshd" not in one.split()[1] and "crash_world.py" not in one]


def agents(server):
    return [int(one.split()[0]) for one in ours(server) if " -I " in one and one.rstrip().endswith("serve") and
            one.split()[1].rpartition("/")[2] != "ssh"]  # fmt: skip


def killed(server, runner, client, victim):
    """A run whose source's script is at work, and then one of them is killed."""
    child = runner.begin("run", "--client", client)
    until((server.base / "began").exists, "its script did not begin")
    pid = child.pid if victim == "server" else min(agents(server))
    os.kill(pid, signal.SIGKILL)
    if victim == "server":
        child.wait()
    until(lambda: not ours(server), lambda: ours(server))
    child.kill()
    child.wait()
    return (server.base / "ended").read_text()


STUBBORN = "trap '' TERM HUP; sh -c 'sleep 120; : {base}/x'"


@pytest.mark.parametrize("victim", ["server", "agent"])
def test_scripts_end_with_their_agent_and_what_must_run_after_has_run_once(server, runner, victim):
    server.client("far", scripts(server.base, STUBBORN.format(base=server.base)), address=ADDRESS)
    assert killed(server, runner, "far", victim) == "after\n"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["server", "agent"])
def test_scripts_of_a_killed_run_and_of_the_next_one_never_meet(server, runner, victim):
    base = server.base
    before = f"echo before >>{base}/log; touch {base}/began; [ -e {base}/second ] || sleep 120"
    after = f"echo begun >>{base}/log; sleep 3; echo after >>{base}/log"
    server.client("far", {"data": {"path": str(base / "tree"), "before": before, "after": after}}, address=ADDRESS)
    child = runner.begin("run", "--client", "far")
    until((base / "began").exists, "its script did not begin")
    os.kill(child.pid if victim == "server" else min(agents(server)), signal.SIGKILL)
    (base / "second").touch()
    if victim == "agent":
        child.kill()  # it would try again itself
    child.wait()
    deadline = time.monotonic() + WITHIN
    while (child := runner.begin("run", "--client", "far")).wait(WITHIN):
        assert "is being dumped on this client already, by process " in child.out, child.out
        assert time.monotonic() < deadline
    assert (base / "log").read_text().split() == ["before", "begun", "after"] * 2


@pytest.mark.parametrize("processors", [1, pytest.param(2, marks=pytest.mark.slow)])  # with two helpers read
def test_an_agent_that_reads_from_a_file_system_without_an_answer_ends_with_its_line(
    server, runner, tmp_path, processors
):
    mount = tmp_path / "silent"
    mount.mkdir()
    with PowerCut(mount) as disk:
        (mount / "file").write_bytes(b"x" * 100_000)
        disk.begin()
        disk.cut(0, "kept")  # nothing of it is in the cache of the kernel
        disk.mute()
        source = {"data": {"path": str(mount), "after": f"echo after >>{server.base}/ended"}}
        server.client("far", source, address=ADDRESS)
        os.sched_setaffinity(server.sshds["far"].process.pid, sorted(os.sched_getaffinity(0))[:processors])
        child = runner.begin("run", "--client", "far")
        until(lambda: agents(server), "no agent came")
        until(lambda: any(_reads(pid) for pid in agents(server)), "nobody reads")
        child.kill()
        child.wait()
        until(lambda: not ours(server), lambda: ours(server))
        assert (server.base / "ended").read_text() == "after\n"


def _reads(pid):
    """Whether a thread of it waits in FUSE."""
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/wchan") as stream:
                if "fuse" in stream.read():
                    return True
            with open(f"/proc/{pid}/task/{task}/stack") as stream:
                if "fuse" in stream.read():
                    return True
    except OSError:
        pass
    return False
