"""The audit log through the command: what is noted, what a run signs, tampering, and a log that cannot be written."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from cli_lab import Server

from backupcore.audit import log


@pytest.fixture
def server(tmp_path):
    one = Server(tmp_path)
    (tmp_path / "nas").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("hello\n")
    one.write(targets={"nas": {"type": "directory", "path": str(tmp_path / "nas")}})
    one.client("web1", {"data": tmp_path / "data"})
    yield one
    one.close()


def asked(server, *words, status=0):
    return json.loads(server.stowage("--json", *words, status=status)[0])


def acts(server):
    return [(one["verb"], one["outcome"]) for one in asked(server, "audit", "list")["acts"]]


def state(server):
    return server.base / "state"


def test_what_changes_something_is_noted_and_what_only_looks_is_not(server):
    base = server.base
    server.stowage("run")
    for words in (("check",), ("list", "dumps"), ("restore", f"web1:{base}/data", "--plan"), ("prune", "--dry-run"),
                  ("hold",), ("key", "list"), ("status",)):  # fmt: skip
        server.stowage(*words)
    night = [("configuration", "new"), ("prune", "ok")]
    assert acts(server) == night
    server.stowage("restore", f"web1:{base}/data", "--to", base / "out")
    server.stowage("restore", "web1:/nowhere", "--to", base / "out", status=2)
    server.stowage("hold", "web1", "--why", "case 4711")
    server.stowage("release", "web1")
    server.stowage("prune")
    server.stowage("prune", "--undo")
    server.stowage("key", "generate", "--no-passphrase")
    server.stowage("key", "revoke", "escrow")
    server.stowage("key", "kit", "--unprotected", "--out", base / "kit.txt")
    server.stowage("target", "add", "disk", "--type", "directory", "--option", f"path={base}/other", "--create")
    server.stowage("rebuild", "--from", "nas")
    found = asked(server, "audit", "list")["acts"]
    told = [(one["verb"], one["outcome"]) for one in found[len(night):]]
    assert told == [
        ("restore", "ok"), ("restore", "fail"), ("hold", "ok"), ("release", "ok"), ("prune", "ok"),
        ("prune --undo", "ok"), ("key generate", "ok"), ("key revoke", "ok"), ("key kit", "ok"), ("target add", "ok"),
        ("rebuild", "ok"),
    ]  # fmt: skip
    restored = next(one for one in found if one["verb"] == "restore")
    assert restored["what"]["to"] == f"{base}/out" and restored["result"]["files"] == 1
    assert restored["who"]["uid"] == os.getuid()
    held = next(one for one in found if one["verb"] == "hold")
    assert held["what"] == {"name": "web1", "why": "case 4711"}
    assert asked(server, "audit", "list", "--verb", "key", "--limit", "1")["acts"][0]["verb"] == "key kit"
    private = (state(server) / "keys" / "private" / "operations.pem").read_text().splitlines()[1]
    assert private not in log.log_file(state(server)).read_text()


def test_check_says_that_the_log_is_not_as_it_was(server):
    server.stowage("run")
    data = log.log_file(state(server)).read_bytes()
    log.log_file(state(server)).write_bytes(data.replace(b'"nightly":true', b'"nightly":null', 1))
    (found,) = [one for one in asked(server, "check", status=1)["findings"] if one["name"] == "audit"]
    assert found["status"] == "FAIL" and "line 2" in found["message"]


def test_a_run_signs_the_end_of_the_log_and_the_target_tells_what_was_cut_off(server):
    server.stowage("run")
    server.stowage("hold", "web1")
    server.stowage("run")
    before = log.log_file(state(server)).read_bytes()
    good = asked(server, "audit", "verify", "--target", "nas")
    assert good["status"] == "ok" and good["records"] == {"here": 2, "nas": 2} and good["fitting"] == 4
    record = max((state(server) / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)  # by name: seconds
    kept = server.base / "kept"
    kept.mkdir()
    for path in (record, record.with_suffix(".sig")):
        (kept / path.name).write_bytes(path.read_bytes())
        path.unlink()
    lines = before.splitlines(keepends=True)
    number = next(at for at, line in enumerate(lines) if b'"verb":"hold"' in line)
    log.log_file(state(server)).write_bytes(b"".join(lines[:number]))
    assert asked(server, "audit", "verify")["status"] == "ok", "without the record nothing here knows"
    for words in (("--target", "nas"), ("--last-run", kept / record.name)):
        broken = asked(server, "audit", "verify", *words, status=1)["broken"]
        assert broken["line"] == number + 1 and "cut off" in broken["message"]
    lines[2] = lines[2].replace(b"web1", b"web2") if b"web1" in lines[2] else lines[2].replace(b'"uid":', b'"uid":1')
    log.log_file(state(server)).write_bytes(b"".join(lines))
    out, _err = server.stowage("audit", "verify", status=1)
    assert out.startswith("FAIL line 3: it was changed")


def test_a_log_that_was_taken_away_is_told_by_what_runs_signed(server):
    server.stowage("run")
    server.stowage("hold", "web1")
    server.stowage("run")
    log.log_file(state(server)).unlink()
    assert "is not there" in asked(server, "audit", "verify", status=1)["broken"]["message"]
    time.sleep(1.1)  # entries have whole seconds
    server.stowage("release", "web1")
    answer = asked(server, "audit", "verify", status=1)
    assert answer["broken"] is None and "a log before this one" in answer["missing"]
    server.stowage("rebuild", "--from", "nas")
    assert asked(server, "audit", "verify")["status"] == "warn"


def test_a_changed_configuration_is_noted_at_its_first_use(server):
    server.stowage("run")
    server.write(policies={"standard": {"rpo": "30 h"}})
    server.stowage("run")
    server.stowage("run")
    assert [one for one in acts(server) if one[0] == "configuration"] == [
        ("configuration", "new"), ("configuration", "changed")]  # fmt: skip


def test_without_a_log_nothing_is_done_but_a_restore_which_says_so(server):
    base = server.base
    server.stowage("run")
    log.log_file(state(server)).unlink()
    os.mkfifo(log.log_file(state(server)))
    for words in (("hold", "web1"), ("prune",), ("key", "generate", "--no-passphrase"), ("rebuild", "--from", "nas"),
                  ("target", "add", "d", "--type", "directory", "--option", f"path={base}/o", "--create")):  # fmt: skip
        _out, err = server.stowage(*words, status=1)
        assert "audit.log" in err and "without an entry" in err
    assert not (state(server) / "keys" / "private").exists() and not (base / "o").exists()
    assert asked(server, "hold")["held"] == []
    out, err = server.stowage("restore", f"web1:{base}/data", "--to", base / "out")
    assert "WARN this restore is not in the audit log" in err and (base / "out").is_dir()
    answer = asked(server, "restore", f"web1:{base}/data", "--to", base / "again")
    assert answer["status"] == "warn" and "audit.log" in answer["unaudited"] and answer["unaudited"] in answer["notes"]
    process = server.start("restore", f"web1:{base}/data/file", "--stdout")
    out, err = process.communicate()
    assert out == b"hello\n" and b"not in the audit log" in err
    out, _err = server.stowage("run")
    assert "WARN" in out and "prune: " in out and "audit: " in out


def test_a_restore_that_is_killed_stands_there_without_an_end(server):
    server.stowage("run")
    process = server.start("restore", f"web1:{server.base}/data", "--to", server.base / "out")
    until = time.monotonic() + 60
    while time.monotonic() < until and b'"verb":"restore"' not in log.log_file(state(server)).read_bytes():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = acts(server)[-1]
    assert last[0] == "restore" and last[1] in ("no end", "ok")
    assert asked(server, "audit", "verify")["status"] == "ok"
    server.stowage("hold", "web1")
    assert asked(server, "audit", "verify")["status"] == "ok"
