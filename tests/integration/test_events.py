"""Nights and those who are told of them, by the real command: who hears what, and that no secret is seen on the way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import planned
import pytest
from listener import Listener

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent as root")


@pytest.fixture
def server(tmp_path):
    yield from planned.server(tmp_path)


@pytest.fixture
def moved(monkeypatch):
    return planned.moved(monkeypatch)


@pytest.fixture
def tree(tmp_path):
    path = tmp_path / "tree"
    path.mkdir()
    (path / "file").write_text("one")
    return path


def secret(server, name, text):
    """A file of credentials."""
    path = server.base / name
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def test_a_night_is_told_from_its_begin_to_its_end(server, tree):
    server.client("web1", {"data": str(tree)})
    with Listener() as hook, Listener() as alive:
        server.write(drill={"nightly": False}, events={
            "chat": {"type": "webhook", "url": hook.url + "/all", "events": ["run-begun", "run-finished"]},
            "bad": {"type": "webhook", "url": hook.url + "/ends"},
            "alive": {"type": "ping", "url": alive.url + "/1b2c"},
        })  # fmt: skip
        answer = server.json("run")
        assert alive.paths == ["/1b2c/start", "/1b2c"]
        assert sorted(hook.paths) == ["/all", "/all", "/ends"] and hook.paths[0] == "/all"
        begun, ended = (one.json() for one in hook.got if one.path == "/all")
        assert (begun["kind"], ended["kind"]) == ("run-begun", "run-finished")
        assert ended["status"] == answer["status"].upper()
        assert begun["data"]["run"]["id"] == ended["data"]["run"]["id"]
        assert ended["data"]["headline"] == answer["headline"]
        assert ended["data"]["sources"][0]["client"] == "web1"
        # a run by name is nobody's night
        server.stowage("run", "--source", "data")
        assert len(alive.got) == 2 and len(hook.got) == 3
        # and what goes wrong is a failure there
        for file in tree.iterdir():
            file.unlink()
        tree.rmdir()
        server.stowage("run", status=1)
        assert alive.paths[2:] == ["/1b2c/start", "/1b2c/fail"]


def test_who_does_not_listen_is_a_warning_and_check_says_it_before(server, tree, monkeypatch):
    server.client("web1", {"data": str(tree)})
    server.write(drill={"nightly": False})
    with Listener(("silent",)) as hook:
        url, key = secret(server, "chat.url", hook.url + "/S3CR3T-1"), secret(server, "chat.secret", "S3CR3T-2")
        server.write(events={"chat": {"type": "webhook", "url_file": url, "secret_file": key, "timeout": 1}})
        out, err = server.stowage("run")
        assert f"WARN event chat: 127.0.0.1:{hook.port} does not answer: not within 1 s (3 tries)" in out
        assert len(hook.got) == 3 and "S3CR3T" not in out + err
        os.chmod(key, 0o644)
        out, err = server.stowage("check")
        assert f"WARN events: event chat: {key} can be read by others -> chmod 600 {key}" in out
        assert "S3CR3T" not in out + err


def test_a_kind_that_is_none_or_not_for_this_driver_is_told_with_its_place(server):
    server.write(events={"chat": {"type": "webhook", "url": "https://x.example/S3CR3T", "events": ["run-finishd"]}})
    _out, err = server.stowage("plan", status=2)
    assert 'events.chat.events[0]: there is no event "run-finishd", did you mean "run-finished"?' in err
    assert "stowage.yml:" in err
    server.write(events={"chat": {"type": "webhook", "url": "https://ops:S3CR3T@x.example/"}})
    _out, err = server.stowage("plan", status=2)
    assert "events.chat.url: has a user or password in it" in err and "S3CR3T" not in err


def told(listener):
    """(kind, state or status, what it is about) of everything a listener has heard since he was asked last."""
    found = []
    while listener.got:
        one = listener.got.pop(0).json()
        about = [each["name"] for each in one["data"].get("troubles", ())] + one["data"].get("over", [])
        found.append((one["kind"], one["data"].get("state", one["status"]), about))
    return found


def metric(path, name):
    """The value of a metric without labels, or of the first that has some."""
    (value, *_more) = [line.split()[-1] for line in path.read_text().splitlines() if line.startswith(f"stowage_{name}")]
    return float(value)


def test_nights_that_fail_and_do_not_come_are_told_once_daily_and_when_they_are_over(server, tree, tmp_path, moved):
    server.client("web1", {"data": str(tree)})
    prom = tmp_path / "stowage.prom"
    with Listener() as hook, Listener() as alive, Listener() as pulse:
        server.write(drill={"nightly": False}, verify={"night": 0}, events={
            "chat": {"type": "webhook", "url": hook.url},
            "alive": {"type": "ping", "url": alive.url + "/night"},
            "pulse": {"type": "ping", "url": pulse.url + "/watch", "events": ["watched"]},
            "metrics": {"type": "textfile", "path": str(prom)},
        })  # fmt: skip
        for _night in range(3):
            server.stowage("run")
            server.stowage("watch")
            moved(24)
        assert [one[:2] for one in told(hook)] == [("run-finished", "OK")] * 3  # and of the watch nothing
        assert pulse.paths == ["/watch"] * 3 and metric(prom, "run_status") == 0
        # a night that fails is told by itself; the source is not late yet
        away = tree.rename(tmp_path / "away")
        server.stowage("run", status=1)
        assert "OK   1 source within the rpo" in server.stowage("watch")[0]
        assert told(hook) == [("run-finished", "FAIL", [])] and alive.paths[-2:] == ["/night/start", "/night/fail"]
        # from hour to hour: past its rpo, and the next night does not come
        heard = []
        for hour in range(1, 60):
            moved(1)
            server.stowage("watch", status=1 if hour > 1 else 0)
            heard += [(hour, one) for one in told(hook)]
        assert heard == [
            (2, ("source-overdue", "begun", ["web1:data"])), (26, ("source-overdue", "lasts", ["web1:data"])),
            (26, ("night-missing", "begun", ["the nightly run"])), (50, ("source-overdue", "lasts", ["web1:data"])),
            (50, ("night-missing", "lasts", ["the nightly run"])),
        ]  # fmt: skip
        assert pulse.paths[-1] == "/watch/fail" and metric(prom, "source_overdue") == 1
        assert metric(prom, 'trouble{kind="night-missing"}') == 1
        # all is well again
        away.rename(tree)
        server.stowage("run")
        server.stowage("watch")
        server.stowage("watch")
        assert told(hook) == [
            ("run-finished", "OK", []), ("source-overdue", "ended", ["web1:data"]),
            ("night-missing", "ended", ["the nightly run"]),
        ]  # fmt: skip
        assert pulse.paths[-1] == "/watch" and metric(prom, "source_overdue") == 0


def test_who_could_not_be_told_hears_it_at_the_next_look_and_the_others_once(server, tree, moved, monkeypatch):
    from backupcore.events import _http

    monkeypatch.setattr(_http, "PAUSES", (0, 0))
    server.client("web1", {"data": str(tree)})
    server.write(drill={"nightly": False})
    server.stowage("run")
    moved(40)
    with Listener() as good, Listener((503,) * 3 + (200,)) as bad:
        server.write(events={"bad": {"type": "webhook", "url": bad.url}, "good": {"type": "webhook", "url": good.url}})
        dry = server.json("watch", "--dry-run", status=1)
        assert {one["kind"] for one in dry["troubles"]} == {"source-overdue", "night-missing"} and not good.got
        answer = server.json("watch", status=1)
        assert [one["event"] for one in answer["told"]] == ["good", "good"]
        assert len(answer["failed"]) == 1 and "event bad: 127.0.0.1" in answer["failed"][0]
        assert len(told(good)) == 2 and len(told(bad)) == 3
        moved(1)
        answer = server.json("watch", status=1)
        assert [one["event"] for one in answer["told"]] == ["bad", "bad"] and answer["failed"] == []
        assert told(good) == [] and [one[1] for one in told(bad)] == ["begun", "begun"]
        # what is remembered is lost: all is told once more, and a file that is none is no harm
        (server.base / "state" / "watch.json").write_text("{")
        assert len(server.json("watch", status=1)["told"]) == 4
        assert server.json("watch", "--test")["told"] == ["bad", "good"]
        assert told(good)[-1] == ("test", "OK", [])


def test_a_killed_night_a_full_disk_and_a_damaged_copy_are_seen(server, tree, moved):
    server.client("web1", {"data": str(tree)})
    nas = server.base / "nas"
    nas.mkdir()
    (tree / "big").write_bytes(os.urandom(300_000))
    server.write(
        drill={"nightly": False}, targets={"nas": {"type": "directory", "path": str(nas)}},
        policies={"standard": {"compress": "none"}},
    )  # fmt: skip
    server.stowage("run")
    server.write(holding=[{"path": str(server.base / "holding"), "use": 340_000, "warn": "80 %"}])
    (part,) = nas.rglob("image-0000*")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.chmod(0o600)
    part.write_bytes(content)
    server.stowage("verify", "--full", "--no-repair", "--target", "nas", status=1)
    from backupcore.catalog import places
    from backupcore.catalog.store import Catalog

    with Catalog(places.catalog_file(server.base / "state")) as catalog:
        killed = catalog.begin_run("run").id  # as a process that was killed leaves it
    found = {one["kind"]: one for one in server.json("watch", status=1)["troubles"]}
    assert set(found) == {"copy-damaged", "holding-filling", "night-missing"}
    assert found["copy-damaged"]["target"] == "nas" and found["copy-damaged"]["name"].startswith("web1:data ")
    assert found["night-missing"]["name"] == killed and "was killed" in found["night-missing"]["message"]
    assert found["holding-filling"]["status"] == "WARN" and " % full: " in found["holding-filling"]["message"]
    server.write(holding=[{"path": str(server.base / "holding"), "use": "1 GB"}])
    server.stowage("run")
    assert server.json("watch")["troubles"] == []
    (server.base / "holding" / ".stowage").unlink()
    (one,) = server.json("watch", status=1)["troubles"]
    assert one["kind"] == "holding-filling" and "is not mounted" in one["message"]


def wait_for(true):
    """Waits until it is, half a minute at most."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def overdue(server, tree, **events):
    """A source past its rpo by the real clock, which processes of their own see."""
    server.client("web1", {"data": str(tree)})
    server.stowage("run", "--source", "data")
    server.write(policies={"standard": {"rpo": "1 s"}}, events=events)
    time.sleep(1.1)


def test_no_secret_is_seen_in_arguments_environments_logs_and_what_is_kept(server, tree):
    with Listener(("silent",)) as there:
        files = {"url_file": secret(server, "chat.url", f"{there.url}/S3CR3T-1"),
                 "secret_file": secret(server, "chat.secret", "S3CR3T-2")}  # fmt: skip
        overdue(server, tree, chat={"type": "webhook", "timeout": 3, "secret_as": "header", **files})
        process = server.start("watch")
        wait_for(lambda: there.got)
        for folder in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    assert b"S3CR3T-" not in (folder / name).read_bytes()
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
        there.close()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and b"does not answer" in out
    assert b"S3CR3T" not in out + err
    assert there.got[0].headers["authorization"] == "S3CR3T-2" and there.got[0].path == "/S3CR3T-1"
    holders = {one.name for one in server.base.rglob("*") if one.is_file() and b"S3CR3T" in one.read_bytes()}
    assert holders == {"chat.url", "chat.secret"}


def test_a_watch_that_is_killed_while_it_tells_tells_again(server, tree):
    with Listener(("silent", 200)) as there:
        overdue(server, tree, chat={"type": "webhook", "url": there.url, "events": ["source-overdue"]})
        process = server.start("watch")
        wait_for(lambda: there.got)
        process.kill()
        process.communicate()
        assert server.json("watch", status=1)["told"][0]["state"] == "begun"
        assert server.json("watch", status=1)["told"] == []
    assert [one[:2] for one in told(there)] == [("source-overdue", "begun")] * 2


def test_two_at_once_tell_once(server, tree):
    with Listener() as there:
        overdue(server, tree, chat={"type": "webhook", "url": there.url, "events": ["source-overdue"]})
        both = [server.start("watch") for _number in range(2)]
        for process in both:
            process.communicate(timeout=60)
    assert [one.returncode for one in both] == [1, 1]
    assert [one[:2] for one in told(there)] == [("source-overdue", "begun")]


def test_a_run_by_name_is_no_night_and_one_of_everything_is(server, tree, moved):
    server.client("web1", {"data": str(tree)})
    server.write(drill={"nightly": False})
    for _night in range(3):
        server.stowage("run")
        moved(24)
    server.stowage("run", "--source", "data")
    moved(3)
    (one,) = server.json("watch", status=1)["troubles"]
    assert (one["kind"], one["name"]) == ("night-missing", "the nightly run")
    server.stowage("run")
    assert server.json("watch")["troubles"] == []
