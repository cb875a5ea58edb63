"""The agent's conversation: what it refuses, what it tells, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_peer import Peer

from backupcore import __version__, wire
from backupcore.errors import AgentRefused, RequestError, SourceFailed, SourceGone, StowageError, WireError

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def peer(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("f")
    made = Peer(tmp_path / "agent").hurry()
    made.declare("s", tmp_path / "tree")
    return made


def refused(peer: Peer, kind: type, words: str = "the|is|no", source: str = "s", **request) -> StowageError:
    """The error that a dump ends in."""
    talk = peer.start()
    try:
        with pytest.raises(kind, match=words) as caught:
            talk.ask(talk.request(source, None, **request))
            talk.take()
        talk.process.stdin.close()
        assert talk.process.wait(60) == 1
        assert talk.process.stderr.read() == b""
        assert "\n" not in caught.value.message
        return caught.value
    finally:
        talk.end()


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_hello_tells_version_and_sources(peer):
    talk = peer.start()
    hello = talk.greet()
    talk.process.stdin.close()
    assert talk.process.wait(60) == 0
    talk.end()
    assert hello["protocol"] == 1 and hello["version"] == __version__ and hello["client"] == "web1"
    assert hello["sources"]["s"]["path"] == peer.sources["s"]["options"]["path"]
    assert hello["root"] is (os.geteuid() == 0) and hello["gzip"] is True and hello["schema"] == 1


def test_hello_for_people_is_json(peer):
    argv = [sys.executable, "-I", str(peer.pyz), "--config", str(peer.config), "hello"]
    done = subprocess.run(argv, capture_output=True, check=True)
    assert json.loads(done.stdout)["client"] == "web1"
    peer.config.write_text("{")
    done = subprocess.run(argv, capture_output=True)
    assert done.returncode == 1 and b"is no JSON" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["serve"], ["--config", "x"], ["--config", "x", "serve", "sh"], ["extract"],
                                   ["--to", "x", "serve"]])  # fmt: skip
def test_other_command_lines_are_refused(peer, words):
    done = subprocess.run([sys.executable, "-I", str(peer.pyz), *words], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and done.stderr.startswith(b"usage:") and not done.stdout


@pytest.mark.parametrize("request_, words", [
    ({"source": "other"}, "declares no source other"),
    ({"source": "../etc"}, "declares no source"),
    ({"source": {"path": "/"}}, "declares no source"),
    ({"encrypt": "client"}, "the server asks for client"),
    ({"encrypt": "server"}, "the server asks for server"),
    ({"encrypt": None}, "the server asks for None"),
])  # fmt: skip
def test_what_agent_json_does_not_allow_is_refused(peer, request_, words):
    refused(peer, AgentRefused, words, **request_)


@pytest.mark.parametrize("request_", [
    {"level": "0"}, {"level": 10}, {"level": True}, {"part_size": 10}, {"part_size": None}, {"compress": None},
    {"compress": "lzma"}, {"state": True}, {"level": 1, "state": False},
])  # fmt: skip
def test_a_request_that_is_not_right_is_refused(peer, request_):
    refused(peer, RequestError, **request_)


@pytest.mark.parametrize("change, words", [
    ({"schema": 2}, "schema"), ({"client": ""}, "client"), ({"client": "a/b"}, "client"), ({"sources": []}, "sources"),
    ({"extra": 1}, "unknown key: extra"), ({"scratch": "relative"}, "scratch"),
    ({"sources": {"../x": {}}}, "no source"), ({"sources": {"s": {"type": "tree"}}}, "needs a type"),
])  # fmt: skip
def test_an_agent_json_that_is_not_right_refuses_all(peer, change, words):
    peer.write(dict({"schema": 1, "client": "web1", "sources": peer.sources}, **change))
    refused(peer, AgentRefused, words)


@pytest.mark.parametrize("option, words", [
    ({"path": "relative"}, "no absolute path"), ({"exclude": ["["]}, None), ({"exclude": "x"}, "no list"),
    ({"exclude": ["a/../b"]}, "match nothing"), ({"one_file_system": 1}, "neither"), ({"before": [[]]}, "neither"),
    ({"follow": True}, "unknown option follow"),
])  # fmt: skip
def test_options_that_are_not_right_are_refused_with_their_word(peer, option, words):
    peer.sources["s"]["options"].update(option)
    peer.write({"schema": 1, "client": "web1", "sources": peer.sources})
    if words is None:
        peer.dump()
    else:
        refused(peer, AgentRefused, words)


def test_a_source_without_client_half_is_refused(peer):
    peer.sources["s"]["type"] = "oracle"
    peer.write({"schema": 1, "client": "web1", "sources": peer.sources})
    refused(peer, AgentRefused, "no source of type oracle")


@root_only
def test_an_agent_json_that_others_can_change_refuses_all(peer):
    peer.config.chmod(0o622)
    refused(peer, AgentRefused, "changed by others")
    peer.config.chmod(0o600)
    os.chown(peer.config, 65534, 0)
    refused(peer, AgentRefused, "belongs to user 65534")
    os.chown(peer.config, 0, 0)
    peer.folder.chmod(0o777)
    refused(peer, AgentRefused, "changed by others")
    peer.folder.chmod(0o755)
    peer.dump()
    os.unlink(peer.config)
    refused(peer, AgentRefused, "cannot be read")


def test_a_source_that_is_not_there(peer, tmp_path):
    peer.declare("s", tmp_path / "nowhere")
    error = refused(peer, SourceGone, "nowhere does not exist")
    assert error.hint
    peer.declare("s", tmp_path / "tree" / "f")
    refused(peer, SourceGone, "is no folder")


def test_scripts_run_around_the_dump_and_stay_off_the_wire(peer, tmp_path):
    log = tmp_path / "log"
    peer.declare("s", tmp_path / "tree", before=f"echo noise; echo before >> {log}; echo new > {tmp_path}/tree/made",
                 after=[["/bin/sh", "-c", f"echo after >> {log}"], ["/bin/true"]])  # fmt: skip
    got = peer.dump()
    assert b"made" in got.rows() and log.read_text() == "before\nafter\n"


def test_a_failing_script_fails_the_dump_and_after_runs(peer, tmp_path):
    log = tmp_path / "log"
    peer.declare("s", tmp_path / "tree", before="echo the database is down >&2; exit 3", after=f"echo after >> {log}")
    refused(peer, SourceFailed, "before' ended with status 3: the database is down")
    assert log.read_text() == "after\n"
    peer.declare("s", tmp_path / "tree", before=[["/no/such/program"]])
    refused(peer, SourceFailed, "cannot be run")


def test_a_failing_script_after_the_dump_is_told_and_the_dump_stays(peer, tmp_path):
    peer.declare("s", tmp_path / "tree", after="kill -9 $$")
    got = peer.dump()
    assert [(note["level"], note["path"]) for note in got.notes] == [("error", "")]
    assert "after' was ended by signal 9" in got.notes[0]["message"]


def test_progress_comes_while_a_script_is_silent(peer, tmp_path):
    peer.declare("s", tmp_path / "tree", before="sleep 1.5")
    talk = peer.start()
    talk.ask(talk.request("s", None))
    kinds = []
    while not kinds or kinds[-1] != wire.DONE:
        kinds.append(talk.channel.receive()[0])
    talk.end()
    assert kinds[0] == wire.START and kinds.count(wire.PROGRESS) >= 3


def test_the_end_of_the_line_ends_agent_and_script_and_after_runs(peer, tmp_path):
    log = tmp_path / "log"
    peer.declare("s", tmp_path / "tree", before=f"echo $$ > {log}; sleep 600; echo never", after=f"touch {log}.after")
    talk = peer.start()
    talk.ask(talk.request("s", None))
    wait_for(lambda: log.exists() and log.read_text().strip())
    talk.process.stdout.close()
    talk.process.stdin.close()
    assert talk.process.wait(60) == 1
    assert (tmp_path / "log.after").exists()
    wait_for(lambda: gone(int(log.read_text())))
    assert talk.process.stderr.read() == b""
    talk.process.stderr.close()


def test_sigterm_ends_the_dump_and_after_runs(peer, tmp_path):
    log = tmp_path / "log"
    peer.declare("s", tmp_path / "tree", before=f"echo $$ > {log}; sleep 600", after=f"touch {log}.after")
    talk = peer.start()
    talk.ask(talk.request("s", None))
    wait_for(lambda: log.exists() and log.read_text().strip())
    talk.process.send_signal(signal.SIGTERM)
    assert talk.process.wait(60) == 128 + signal.SIGTERM  # so that the server knows that it did not fail by itself
    assert (tmp_path / "log.after").exists()
    wait_for(lambda: gone(int(log.read_text())))
    talk.end()


def test_a_server_that_stops_reading_and_goes_ends_the_agent(peer, tmp_path):
    (tmp_path / "tree" / "big").write_bytes(os.urandom(40 << 20))
    talk = peer.start()
    talk.ask(talk.request("s", None))
    talk.channel.expect(wire.START)
    time.sleep(0.5)  # now all of it waits for us
    assert talk.process.poll() is None
    talk.process.stdout.close()
    talk.process.stdin.close()
    assert talk.process.wait(60) == 1
    assert talk.process.stderr.read() == b""
    talk.process.stderr.close()


@pytest.mark.parametrize("junk", [
    b"GET / HTTP/1.0\r\n\r\n", b"H\xff\xff\xff\xff", b"H\0\0\0\2[]", b"H\0\0\0\1{", b"Q\0\0\0\2{}",
    b"H\0\0\0\2{}", b'H\0\0\0\x0e{"protocol":1}Z\0\0\0\0', b'H\0\0\0\x0e{"protocol":1}Q\0\0\0\2{}',
    b'H\0\0\0\x0e{"protocol":2}Q\0\0\0\2{}',
])  # fmt: skip
def test_junk_on_the_wire_is_one_error_and_the_end(peer, junk):
    argv = [sys.executable, "-I", str(peer.pyz), "--config", str(peer.config), "serve"]
    done = subprocess.run(argv, input=junk, capture_output=True, timeout=60)
    assert done.returncode == 1 and done.stderr == b""
    import io

    channel = wire.Channel(io.BytesIO(done.stdout), io.BytesIO())
    with pytest.raises(WireError):
        while True:
            channel.expect(wire.HELLO)
    assert channel.reader.read() == b""


@pytest.mark.parametrize("state", [[b"junk"], [b"\x28\xb5\x2f\xfdjunk"], []])
def test_junk_as_state_is_one_error(peer, state):
    talk = peer.start()
    try:
        talk.ask(talk.request("s", None, level=1))
        for payload in state:
            talk.channel.send(wire.STATE, payload)
        talk.channel.flush()
        talk.process.stdin.close()  # without END
        with pytest.raises(StowageError):
            talk.take()
        assert talk.process.wait(60) == 1 and talk.process.stderr.read() == b""
    finally:
        talk.end()


def test_the_survey_finds_sources_mounts_and_homes(peer, tmp_path):
    peer.declare("missing", tmp_path / "missing")
    talk = peer.start()
    talk.ask({"request": "survey"})
    kind, found = talk.channel.expect(wire.DONE)
    talk.end()
    assert found["sources"]["s"] == {"exists": True, "readable": True, "message": ""}
    assert found["sources"]["missing"]["exists"] is False and "no such file" in found["sources"]["missing"]["message"]
    assert any(mount["path"] == "/" and mount["used"] > 0 for mount in found["mounts"])
    assert not any(mount["fstype"] in ("proc", "sysfs", "tmpfs") for mount in found["mounts"])
    assert all(Path(home["path"]).is_dir() for home in found["homes"])


def test_the_survey_finds_a_database_by_its_process(tmp_path):
    from backupcore.agent import survey

    program, data = tmp_path / "redis-server", tmp_path / "data"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    data.mkdir()
    process = subprocess.Popen([program, "30"], cwd=data)
    try:
        wait_for(lambda: {"name": "redis", "path": str(data)} in survey.databases())
    finally:
        process.kill()
        process.wait()


def test_mounts_are_local_and_each_told_once(tmp_path):
    from backupcore.agent import survey

    table = (
        b"22 1 8:1 / / rw - ext4 /dev/a rw\n23 22 8:1 / /mnt rw - ext4 /dev/a rw\n24 22 0:5 / /proc rw - proc x rw\n"
        b"25 22 0:9 / /net rw - nfs4 x rw\n26 22 8:2 / " + bytes(tmp_path).replace(b"/", b"\\057")
        + b" rw shared:1 master:2 - xfs /dev/b rw\nbroken\n"
    )  # fmt: skip
    assert [mount["path"] for mount in survey.mounts(table)] == ["/", str(tmp_path)]


def test_homes_are_those_of_people(tmp_path):
    from backupcore.agent import survey

    lines = "r:x:0:0::%s:/bin/sh\nd:x:2:2::%s:/bin/sh\nn:x:1001:2::%s:/usr/sbin/nologin\nm:x:1000:2::/nowhere:/bin/sh"
    homes = [tmp_path / name for name in ("root", "daemon", "n")]
    for home in homes:
        home.mkdir()
    assert survey.homes((lines % tuple(homes)).encode()) == [{"path": str(homes[0])}]
