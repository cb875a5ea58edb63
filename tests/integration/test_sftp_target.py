"""The SFTP target against OpenSSH: the conformance suite, broken lines, a full disk, keys and passwords."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backupcore.hookspecs import TargetContext, TargetError

from backupcore.targets import _sftp_put, _streaming, sftp
from backupcore.targets.sftp import SftpOptions, SftpTarget
from backupcore.testing.targets import TargetConformance

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
import sftpserver  # noqa: E402
import stage_world  # noqa: E402

MIB = 1 << 20
SERVER = "0123456789abcdef"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    with sftpserver.running(tmp_path_factory.mktemp("box") / "ssh") as answer:
        yield answer


@pytest.fixture(autouse=True)
def empty(box):
    yield
    for path in box.disk.iterdir():
        shutil.rmtree(path)


def options(box, **more):
    given = {"host": "127.0.0.1", "port": box.port, "user": sftpserver.USER, "path": "/home/stowage"}
    return SftpOptions(**{**given, "known_hosts": box.known_hosts, "key": box.key, "timeout": 20, **more})


@pytest.fixture
def opened(box, tmp_path):
    made = []

    def make(**more):
        made.append(SftpTarget(options(box, **more), TargetContext("box", SERVER, tmp_path / "state")))
        return made[-1]

    yield make
    for target in made:
        target.close()


@pytest.fixture
def target(opened):
    return opened()


@pytest.fixture
def line(box):
    line = sftpserver.Line(box.port)
    box.pin(line.port)
    yield line
    line.close()


def written(path, content):
    path.write_bytes(content)
    return path


def half_files(box):
    return [path for path in (box.disk / "stowage/.stowage/incoming").rglob("*") if path.is_file()]


class TestSftp(TargetConformance):
    driver = sftp.DRIVER

    @pytest.fixture
    def target(self, opened):
        return opened()

    @pytest.fixture
    def plant(self, box):
        def put(name, content):
            with open(os.fsencode(box.disk / "stowage") + b"/" + name, "wb") as file:
                file.write(content)

        return put


# -- broken lines


def test_a_line_that_breaks_twice_costs_no_byte_that_was_acknowledged(opened, line, box, tmp_path):
    content = os.urandom(24 * MIB)
    path = written(tmp_path / "big", content)
    target = opened(port=line.port)
    line.cuts = [10 * MIB, 5 * MIB]
    progress = []
    target.put("a/big", path, sha256=hashlib.sha256(content).hexdigest(), progress=progress.append)
    assert (box.disk / "stowage/a/big").read_bytes() == content
    assert sum(progress) == len(content)
    assert len(line.sent) == 3
    # at most what was under way at each cut (the window, and what lay in buffers between) goes a second time
    assert sum(line.sent) < len(content) * 1.01 + 2 * 6 * MIB
    assert line.sent[2] < 16 * MIB
    assert half_files(box) == []


def test_a_stream_goes_on_over_a_line_that_breaks_and_loses_nothing(opened, line, box):
    content = os.urandom(24 * MIB)
    target = opened(port=line.port)
    line.cuts = [10 * MIB, 5 * MIB]
    stream = target.stream("a/part", if_absent=True)
    for begin in range(0, len(content), 300_000):
        stream.write(content[begin : begin + 300_000])
    stored = stream.finish(hashlib.sha256(content).hexdigest())
    assert stored.size == len(content) and not stored.proven
    assert (box.disk / "stowage/a/part").read_bytes() == content
    assert len(line.sent) == 3 and sum(line.sent) < len(content) * 1.01 + 2 * 6 * MIB
    assert half_files(box) == [] and not list((target.folder / "streams").iterdir())


def test_a_stream_whose_server_stays_away_is_an_error_and_is_cleaned_later(opened, line, box, monkeypatch):
    monkeypatch.setattr(_streaming, "PATIENCE", 1.0)
    line.cuts = [6 * MIB, *[1000] * 100]  # and then no login comes to its end
    target = opened(port=line.port)
    stream = target.stream("a/part")
    with pytest.raises(TargetError) as error:
        for _ in range(100):
            stream.write(os.urandom(MIB))
    assert "\n" not in error.value.message
    stream.abort()
    assert len(half_files(box)) == 1
    assert opened().clean(0) == 1
    assert half_files(box) == [] and not (box.disk / "stowage/a").exists()


def test_a_later_try_sends_only_what_is_behind_the_checkpoint(opened, line, box, tmp_path, monkeypatch):
    content = os.urandom(20 * MIB)
    path = written(tmp_path / "big", content)
    line.cuts = [12 * MIB] * 4
    states = []
    with monkeypatch.context() as less:
        less.setattr(_sftp_put, "ATTEMPTS", 1)
        with pytest.raises(TargetError) as error:
            opened(port=line.port).put("big", path, checkpoint=states.append)
    assert error.value.retry and "\n" not in error.value.message
    acked = states[-1]["offset"]
    assert 4 * MIB < acked <= 12 * MIB
    json.dumps(states)
    line.cuts = []
    before = len(line.sent)
    progress = []
    opened(port=line.port).put("big", path, resume=states[-1], checkpoint=states.append, progress=progress.append)
    assert sum(line.sent[before:]) < (len(content) - acked) * 1.01 + 100_000
    assert sum(progress) == len(content)
    assert (box.disk / "stowage/big").read_bytes() == content


@pytest.mark.parametrize("lie", ["gone", "short", "long", "other file", "other digest"])
def test_a_state_that_does_not_fit_begins_anew(target, box, tmp_path, lie):
    content = os.urandom(3 * MIB)
    path = written(tmp_path / "big", content)
    states = []

    def stop(_count):
        if len(states) == 0 and _count:
            raise KeyboardInterrupt

    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(KeyboardInterrupt):
        target.put("big", path, sha256=digest, checkpoint=states.append, progress=stop)
    box.cut()  # the server may still be writing what was under way
    (half,) = half_files(box)
    if lie == "gone":
        half.unlink()
    elif lie == "short":
        os.truncate(half, 10)
    elif lie == "long":
        os.truncate(half, 4 * MIB)
    elif lie == "other file":
        content = os.urandom(4 * MIB)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
    else:
        content = content[:-1] + b"x"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
    target.put("big", path, sha256=digest, resume=states[-1])
    assert (box.disk / "stowage/big").read_bytes() == content


def test_idle_connections_that_were_ended_are_made_again(target, box, tmp_path):
    content = os.urandom(100_000)
    target.put("x", written(tmp_path / "x", content))
    assert box.cut() > 0
    assert target.stat("x").size == 100_000
    box.cut()
    assert b"".join(target.read("x")) == content
    box.cut()
    assert [found.name for found in target.list()] == ["x"]
    box.cut()
    target.put("y", tmp_path / "x", if_absent=True)
    box.cut()
    target.delete("x")
    assert target.stat("x") is None


def test_a_read_goes_on_behind_what_came(target, box, tmp_path):
    content = os.urandom(16 * MIB)
    target.put("big", written(tmp_path / "big", content))
    pieces = target.read("big", 5)
    came = [next(pieces)]
    box.cut()
    came += pieces
    assert b"".join(came) == content[5:]


def test_a_file_that_changes_while_a_read_is_broken_is_told(target, box, tmp_path):
    target.put("big", written(tmp_path / "big", os.urandom(8 * MIB)))
    pieces = target.read("big")
    next(pieces)
    box.cut()
    (box.disk / "stowage/big").write_bytes(bytes(9 * MIB))
    with pytest.raises(TargetError, match="changed"):
        list(pieces)


def test_a_closed_port_is_told(opened, line):
    line.close()
    with pytest.raises(TargetError, match="no connection to 127.0.0.1 port") as error:
        opened(port=line.port).stat("x")
    assert error.value.retry


KILLED = """
import sys, json
from pathlib import Path
from backupcore.hookspecs import TargetContext
from backupcore.targets import _sftp_put
from backupcore.targets.sftp import SftpOptions, SftpTarget
_sftp_put.CHECKPOINT = 1 << 20
options, state, path = sys.argv[1:]
target = SftpTarget(SftpOptions(**json.loads(options)), TargetContext("box", "0123456789abcdef", Path(state)))
target.put("big", Path(path), checkpoint=lambda state: print(json.dumps(state), flush=True))
"""


def test_a_killed_put_is_taken_up_at_its_last_checkpoint(opened, line, box, tmp_path):
    content = os.urandom(40 * MIB)
    path = written(tmp_path / "big", content)
    given = options(box).model_dump_json(exclude_none=True)
    command = [sys.executable, "-c", KILLED, given, tmp_path / "state", path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        states = [json.loads(child.stdout.readline()) for _ in range(8)]
        child.send_signal(signal.SIGKILL)
        states += [json.loads(text) for text in child.stdout.read().splitlines() if text.endswith("}")]
    acked = states[-1]["offset"]
    assert acked >= 8 * MIB
    target = opened(port=line.port)
    assert target.stat("big") is None
    assert target.clean(time.time_ns() - 3600 * 10**9) == 0, "a young one may be taken up"
    target.put("big", path, resume=states[-1])
    assert sum(line.sent) < (len(content) - acked) * 1.01 + 100_000
    assert (box.disk / "stowage/big").read_bytes() == content
    assert half_files(box) == []


def test_clean_removes_what_a_kill_left_and_nothing_of_others(target, box, tmp_path):
    target.put("x", written(tmp_path / "x", b"x"))
    incoming = box.disk / "stowage/.stowage/incoming"
    for server in (SERVER, "fedcba9876543210"):
        (incoming / server).mkdir(exist_ok=True)
        (incoming / server / "half").write_bytes(b"x")
        os.chown(incoming / server, 64321, 64321)
    os.utime(incoming / SERVER / "half", (1, 1))
    os.utime(incoming / "fedcba9876543210/half", (1, 1))
    assert target.clean(time.time_ns()) == 1
    assert (incoming / "fedcba9876543210/half").exists()


# -- the place


def test_files_are_0600_and_folders_0700(target, box, tmp_path):
    target.put("client/source/file", written(tmp_path / "x", b"x"))
    assert (box.disk / "stowage/client/source/file").stat().st_mode & 0o777 == 0o600
    assert (box.disk / "stowage/client").stat().st_mode & 0o777 == 0o700


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path):
    with sftpserver.running(tmp_path / "ssh", mount="size=2m") as small:
        target = SftpTarget(options(small), TargetContext("box", SERVER, tmp_path / "state"))
        with pytest.raises(TargetError) as error:
            target.put("a/big", written(tmp_path / "big", os.urandom(4 * MIB)), checkpoint=lambda state: None)
        assert "room" in error.value.hint or "disk full" in error.value.hint
        assert half_files(small) == []
        small.cut()  # the server may hold the removed file open for the line that was left
        deadline = time.monotonic() + 60
        while small.connections() and time.monotonic() < deadline:
            time.sleep(0.05)
        target.put("a/small", written(tmp_path / "small", os.urandom(MIB)))
        assert target.stat("a/small").size == MIB
        target.close()


def test_a_disk_that_is_not_mounted_there_is_refused(opened, box, tmp_path):
    target = opened()
    target.put("x", written(tmp_path / "x", b"x"))
    shutil.move(box.disk / "stowage", box.disk / "away")
    (box.disk / "stowage").mkdir()
    os.chown(box.disk / "stowage", 64321, 64321)
    fresh = opened()
    for action in (lambda: fresh.put("y", tmp_path / "x"), lambda: list(fresh.list()), lambda: fresh.stat("x")):
        with pytest.raises(TargetError, match="lost its .stowage") as error:
            action()
        assert "mounted" in error.value.hint
    assert os.listdir(box.disk / "stowage") == []


def test_a_place_without_the_right_to_write_is_told(opened, tmp_path):
    with pytest.raises(TargetError, match="permission denied|not there") as error:
        opened(path="/elsewhere").put("x", written(tmp_path / "x", b"x"))
    assert "\n" not in error.value.message


def test_a_read_only_server_is_told(tmp_path):
    with sftpserver.running(tmp_path / "ssh", more="") as first:
        text = (first.folder / "sshd_config").read_text()
        text = text.replace("ForceCommand internal-sftp", "ForceCommand internal-sftp -R")
        first.stop()
        (first.folder / "sshd_config").write_text(text)
        first.start()
        target = SftpTarget(options(first), TargetContext("box", SERVER, tmp_path / "state"))
        with pytest.raises(TargetError, match="permission denied") as error:
            target.put("x", written(tmp_path / "x", b"x"))
        assert "read-only" in error.value.hint
        assert any(not finding.ok for finding in target.probe())
        target.close()


def test_a_relative_path_begins_where_the_login_does(opened, box, tmp_path):
    opened(path="home/deep/er").put("x", written(tmp_path / "x", b"x"))
    assert (box.disk / "deep/er/x").read_bytes() == b"x"


# -- who is who


def test_a_password_lets_in(opened, tmp_path):
    file = written(tmp_path / "box.json", json.dumps({"password": sftpserver.PASSWORD}).encode())
    file.chmod(0o600)
    target = opened(key=None, credentials=file)
    target.put("x", written(tmp_path / "x", b"x"))
    file.write_text(json.dumps({"box": {"password": "wrong"}}))
    with pytest.raises(TargetError, match="does not let box in") as error:
        opened(key=None, credentials=file).stat("x")
    assert not error.value.retry and "wrong" not in error.value.message + error.value.hint


def test_a_key_with_a_passphrase(opened, box, tmp_path):
    key = tmp_path / "locked"
    shutil.copy(box.key, key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", key], check=True, stdout=subprocess.DEVNULL)
    with pytest.raises(TargetError, match="passphrase") as error:
        opened(key=key).stat("x")
    assert "credentials" in error.value.hint
    file = written(tmp_path / "box.json", b'{"passphrase": "open sesame"}')
    file.chmod(0o600)
    assert opened(key=key, credentials=file).stat("x") is None
    file.write_bytes(b'{"passphrase": "no"}')
    with pytest.raises(TargetError, match="passphrase is wrong"):
        opened(key=key, credentials=file).stat("x")


def test_secrets_that_others_can_read_are_refused(opened, box, tmp_path):
    key = tmp_path / "id"
    shutil.copy(box.key, key)
    key.chmod(0o644)
    with pytest.raises(TargetError, match="read by others") as error:
        opened(key=key).stat("x")
    assert error.value.hint == f"chmod 600 {key}"
    file = written(tmp_path / "box.json", b'{"password": "x"}')
    file.chmod(0o640)
    with pytest.raises(TargetError, match="read by others"):
        opened(key=None, credentials=file).stat("x")


def test_another_host_key_is_refused_before_anything_is_told(opened, box, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    kind, key = other.with_suffix(".pub").read_text().split()[:2]
    known = written(tmp_path / "known", f"[127.0.0.1]:{box.port} {kind} {key}\n".encode())
    with pytest.raises(TargetError, match="another host key") as error:
        opened(known_hosts=known).stat("x")
    assert "SHA256:" in error.value.hint and not error.value.retry


def test_an_unknown_host_is_refused_with_the_way_to_pin_it(opened, tmp_path):
    with pytest.raises(TargetError, match="has no key of") as error:
        opened(known_hosts=written(tmp_path / "known", b"# nothing\nnonsense\n@revoked x y\n")).stat("x")
    assert "ssh-keyscan -p" in error.value.hint
    with pytest.raises(TargetError, match="cannot read"):
        opened(known_hosts=tmp_path / "missing").stat("x")


def test_a_hashed_known_hosts_is_read(opened, box, tmp_path):
    known = tmp_path / "known"
    shutil.copy(box.known_hosts, known)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, stderr=subprocess.DEVNULL)
    assert "127.0.0.1" not in known.read_text()
    assert opened(known_hosts=known).stat("x") is None


def test_the_host_key_may_stand_in_the_configuration(opened, box, tmp_path):
    key = (box.folder / "host_key.pub").read_text().strip()
    assert opened(known_hosts=None, host_key=key).stat("x") is None
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    other = (tmp_path / "other.pub").read_text().strip()
    with pytest.raises(TargetError, match="another host key than host_key"):
        opened(known_hosts=None, host_key=other).stat("x")
    with pytest.raises(TargetError, match="no public key"):
        opened(known_hosts=None, host_key="ssh-ed25519 AAAAAAAAAAAAAAAAAAAA").stat("x")


def test_a_key_of_another_kind_than_the_server_shows_is_told(opened, box, tmp_path):
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", other], check=True)
    kind, key = other.with_suffix(".pub").read_text().split()[:2]
    known = written(tmp_path / "known", f"[127.0.0.1]:{box.port} {kind} {key}\n".encode())
    with pytest.raises(TargetError, match="host key in common"):
        opened(known_hosts=known).stat("x")


def test_a_wrong_key_is_told(opened, tmp_path):
    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with pytest.raises(TargetError, match="does not let box in"):
        opened(key=key).stat("x")
    with pytest.raises(TargetError, match="cannot be used"):
        opened(key=written(key, b"no key")).stat("x")


def test_nothing_is_told_twice_by_the_library(box, tmp_path):
    given = options(box, port=box.port, user="nobody").model_dump_json(exclude_none=True)
    command = [sys.executable, "-c", KILLED, given, tmp_path / "state", written(tmp_path / "x", b"x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.count("Traceback") == 1 and "paramiko" not in done.stderr.splitlines()[-1]


# -- with the stager


def test_staging_over_a_line_that_is_cut_goes_on_where_it_was(opened, line, box, tmp_path, monkeypatch):
    """The catalog's note, not only the driver's own state: the second night sends what the first did not."""
    world = stage_world.World(tmp_path)
    target = opened(port=line.port)
    world.opened["nas"] = target
    dump = world.dump(parts=(12 * MIB, 12 * MIB))
    line.cuts = [20 * MIB, 0, 0, 0, 0, 0, 0]
    monkeypatch.setattr(_sftp_put, "ATTEMPTS", 2)
    results = {one.target: one for one in world.stage()}
    assert results["disk"].ok and not results["nas"].ok
    line.cuts = []
    before = sum(line.sent)
    results = world.stage()
    assert [(one.target, one.ok) for one in results] == [("nas", True)]
    assert sum(line.sent) - before < 10 * MIB, "only the rest of the second part, index and small files"
    (row,) = world.catalog.copies(dump=dump.id, target="nas")
    assert row.state == "verified"
    assert world.files(tmp_path / "disk") == world.files(box.disk / "stowage")
