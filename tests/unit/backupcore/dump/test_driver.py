"""A night: dumps become whole images with rows, and whatever happens to one costs that one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backupcore import clock, files
from backupcore.catalog import places
from backupcore.dump import driver, runlock, statefile, status
from backupcore.dump.budget import Budget
from backupcore.errors import CatalogError, ConfigError
from backupcore.image import codec as codecs
from backupcore.image import frames
from backupcore.image.folder import check_folder
from backupcore.image.manifest import load_public_keys, verify
from backupcore.schedule.bases import Claim, Planned
from backupcore.settings import HoldingDisk, Policy

DAY = 86_400 * clock.NS


def keys(server):
    return load_public_keys(server.settings.keys)


def test_a_dump_is_an_image_that_is_whole_and_signed(server):
    server.client("web1")
    result = server.one()
    assert result.ok and not result.warning, result
    (row,) = server.catalog.dumps()
    manifest = check_folder(Path(row.holding), keys(server), full=True)
    assert (manifest.dump, manifest.level, manifest.counter, manifest.base, manifest.previous) == (
        row.id,
        0,
        1,
        None,
        None,
    )
    assert manifest.server == places.server_id(server.settings.state)
    assert row.manifest_sha256 == hashlib.sha256((Path(row.holding) / "manifest.json").read_bytes()).hexdigest()
    assert (row.level, row.entries, row.archive_size, row.codec, row.run) == (0, 1, 1000, "zstd", server.run.id)
    assert row.stored_size == manifest.stored_size and row.options["path"] == "/data"
    zstd = codecs.get("zstd")
    assert b"".join(zstd.unpack([(Path(row.holding) / "image-0000.tar.zst").read_bytes()])) == b"x" * 1000
    (frame,) = frames.read(zstd.unpack([(Path(row.holding) / "frames.tsv.zst").read_bytes()]))
    assert frame.digest == hashlib.sha256((Path(row.holding) / "image-0000.tar.zst").read_bytes()).digest()
    assert server.left() == []


def test_what_the_next_incremental_and_find_need_is_beside_the_catalog(server):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    index = places.find_index(server.settings.state, "web1", "data", row.id)
    assert index.read_bytes() == (Path(row.holding) / "index.tsv.zst").read_bytes()
    path = places.state_folder(server.settings.state, "web1", "data") / row.state
    statefile.check(path)
    assert list(statefile.payloads(path)) == [b"state"]


def test_each_step_is_on_the_disk_before_the_next(server, monkeypatch):
    # what a power loss leaves cannot be tried here: the order of syncs is read instead
    server.client("web1")
    steps = []

    def logged(name, show):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, **more: (steps.append((name, show(*args))), real(*args, **more))[1])

    logged("fsync", lambda fd: os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
    logged("rename", lambda source, dest: os.path.basename(dest))
    logged("link", lambda source, dest: os.path.basename(dest))
    real = server.catalog.add_dump
    monkeypatch.setattr(server.catalog, "add_dump", lambda row: (steps.append(("row", row.id)), real(row)))
    assert server.one().ok
    name = server.catalog.dumps()[0].id
    steps = steps[: steps.index(("row", name)) + 1]
    signed = steps.index(("fsync", "manifest.sig"))
    data = {"image-0000.tar.zst", "index.tsv.zst", "frames.tsv.zst", name + ".state", name + ".row"}
    assert data <= {what for _step, what in steps[:signed]}
    assert [what for _step, what in steps[signed - 3 :][:5]] == [
        "SHA256SUMS", "RESTORE.txt", "manifest.json", "manifest.sig", name,
    ]  # fmt: skip
    assert ("rename", name) not in steps[: signed + 2]
    moved = steps.index(("rename", name))
    assert steps[moved + 1] == ("fsync", "data")
    rest = steps[moved + 2 :]
    assert rest.index(("rename", name + ".state")) < rest.index(("link", name + ".tsv.zst")) < len(rest) - 1
    assert rest[-2:] == [("fsync", "data"), ("row", name)]


def test_all_files_are_their_owners_only(server):
    server.client("web1")
    server.one()
    for top in (server.settings.state, server.holding):
        for path in [top, *top.rglob("*")]:
            assert stat.S_IMODE(path.lstat().st_mode) in ((0o700,) if path.is_dir() else (0o600,)), path


def test_an_incremental_builds_on_the_full_and_gets_its_state(server):
    server.client("web1")
    server.one()
    server.say("web1", "request = greet()\nstart()\nassert request['level'] == 1\n"
               "assert state_in() == [b'state']\ngood(b'y' * 10, b'second')\n")  # fmt: skip
    result = server.one()
    assert result.ok, result
    full, first = server.catalog.dumps("web1", "data")
    assert (first.level, first.base, first.previous, first.counter) == (1, full.id, full.id, 2)
    manifest = check_folder(Path(first.holding), keys(server))
    assert manifest.base.manifest_sha256 == manifest.previous.manifest_sha256 == full.manifest_sha256
    server.say("web1", "greet()\nstart()\nassert state_in() == [b'second']\ngood()\n")
    assert server.one(level=2).ok
    assert [row.level for row in server.catalog.chain(server.catalog.latest("web1", "data").id)] == [0, 1, 2]
    assert check_folder(Path(server.catalog.latest("web1", "data").holding), keys(server)).previous.dump == first.id


def test_one_failure_costs_one_dump(server):
    server.set(dumps_at_once=3)
    bad = {
        "garbage": "out.write(b'Welcome to web!\\n' * 100); out.flush()",
        "refuses": "greet(); channel.send_json(wire.ERROR, dict(code='source-gone', message='gone', hint='h'))",
        "dies": "greet(); start(); frame(0, 0, b'x' * 5000); os._exit(3)",
        "lies": "greet(); start(); index(5); frame(0, 0, b'x', wire.LAST); done(1, 4)",
        "silent": "greet(); start(); time.sleep(30)",
        "raises": "raise SystemExit('no way')",
    }
    server.set(silence_timeout=4.0)  # on a busy machine a good one may be silent for a while, too
    for name, script in bad.items():
        server.client(name, script=script)
        server.client("good-" + name)
    server.client("missing", agent="/nonexistent/agent.pyz")
    server.client("no-python", agent_python="/nonexistent/python3")
    results = {result.client: result for result in server.night()}
    assert len(results) == 14
    for name in bad:
        assert not results[name].ok and results["good-" + name].ok, results[name]
    codes = {name: results[name].code for name in [*bad, "missing", "no-python"]}
    assert codes == {
        "garbage": "wire", "refuses": "source-gone", "dies": "wire", "lies": "wire", "silent": "wire",
        "raises": "agent-missing", "missing": "agent-missing", "no-python": "agent-missing",
    }  # fmt: skip
    assert "Welcome to web" in results["garbage"].message
    assert "nothing for 4 s" in results["silent"].message
    assert (results["refuses"].message, results["refuses"].hint) == ("gone", "h")
    assert all("\n" not in result.message and "\x1b" not in result.message for result in results.values())
    assert [row.client for row in server.catalog.dumps()] == sorted(
        (name for name in results if name.startswith("good")), key=lambda name: server.catalog.dumps(name)[0].begun_ns
    )
    assert server.left() == []
    assert len(server.catalog.results(server.run.id)) == 14


def test_several_at_once_and_never_more_than_allowed(server, tmp_path):
    script = f"""
        greet(); start(); index(1)
        mark = {str(tmp_path)!r} + '/at-work-%d' % os.getpid()
        open(mark, 'w').close(); count = 0; until = time.monotonic() + 60
        def there(word): return len([n for n in os.listdir({str(tmp_path)!r}) if n.startswith(word)])
        while not there('met') and (count := max(count, there('at-work'))) < 3 and time.monotonic() < until:
            time.sleep(0.02)  # the first three wait for each other
        open({str(tmp_path)!r} + '/met', 'w').close(); time.sleep(0.4)
        open({str(tmp_path)!r} + '/seen-%d' % os.getpid(), 'w').write(str(max(count, there('at-work'))))
        os.unlink(mark); frame(0, 0, b'x', wire.LAST); done(1, 1)
    """
    for name in ("a", "b", "c", "d", "e", "f"):
        server.client(name, script=script)
    server.set(dumps_at_once=3)
    assert all(result.ok for result in server.night())
    seen = [int(path.read_text()) for path in tmp_path.glob("seen-*")]
    assert len(seen) == 6 and max(seen) == 3


def test_an_unreachable_client_is_asked_once_and_others_go_on(server, tmp_path):
    script = f"open({str(tmp_path)!r} + '/asked', 'a').write('x'); sys.exit('no')"
    server.client("away", "a", "b", "c", "d", script=script)
    server.client("here")
    results = server.night()
    assert [result.ok for result in results] == [False] * 4 + [True]
    assert {result.code for result in results[:4]} == {"agent-missing"}
    assert len((tmp_path / "asked").read_text()) <= 2  # two were under way at once


def test_a_roaming_client_that_is_away_is_a_warning(server):
    server.client("nb1", transport="ssh", address="127.77.10.9", presence="roaming")
    server.client("web1", transport="ssh", address="127.77.10.9")
    key = server.base / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    server.settings.known_hosts.mkdir()
    for name in ("nb1", "web1"):
        (server.settings.known_hosts / name).write_text(f"{name} {(server.base / 'key.pub').read_text()}")
    server.set(ssh_key=key)
    away, missing = server.night()
    assert (away.ok, away.warning, away.code) == (False, True, "client-unreachable")
    assert (missing.ok, missing.warning, missing.code) == (False, False, "client-unreachable")


def test_changed_options_on_the_client_make_a_full(server):
    server.client("web1")
    server.one()
    server.say("web1", "request = greet()\nstart(exclude=['*.tmp'])\nif request['state']: time.sleep(30)\ngood()\n")
    result = server.one()
    assert result.ok and result.level == 0 and result.warning
    assert "exclude of the source changed" in result.message
    latest = server.catalog.latest("web1", "data")
    assert (latest.level, latest.base, latest.options["exclude"]) == (0, None, ["*.tmp"])
    assert server.left() == []
    server.say("web1", "greet(); start(exclude=['*.tmp']); state_in(); good()")
    assert server.one().level == 1


@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_a_state_that_is_damaged_makes_a_full_with_the_reason(server, harm):
    server.client("web1")
    server.one()
    (row,) = server.catalog.dumps()
    path = places.state_folder(server.settings.state, "web1", "data") / row.state
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else data[:20] + bytes([data[20] ^ 1]) + data[21:])
    result = server.one()
    assert result.ok and result.level == 0
    assert "state of " + row.id in result.message
    assert server.one().level == 1


def test_a_state_the_agent_cannot_read_makes_a_full(server):
    server.client("web1")
    server.one()
    server.say("web1", """
        request = greet(); start()
        if request['state']:
            channel.send_json(wire.ERROR, {'code': 'image-damaged', 'message': 'a block of state is cut', 'hint': ''})
            sys.exit()
        good()
    """)  # fmt: skip
    result = server.one()
    assert result.ok and result.level == 0 and "block of state" in result.message


def test_a_damaged_base_is_no_base(server):
    server.client("web1")
    server.one()
    server.catalog.mark_damaged(server.catalog.latest("web1", "data").id)
    result = server.one()
    assert result.ok and result.level == 0 and "is damaged" in server.planned[0].reason


def test_a_base_that_left_the_holding_disk_without_a_copy_is_no_base(server):
    server.client("web1")
    server.one()
    row = server.catalog.latest("web1", "data")
    os.rename(row.holding, server.base / "elsewhere")
    assert server.one().level == 0 and "no verified copy" in server.planned[0].reason


def test_a_client_without_zstd_sends_gzip_when_the_policy_lets_it(server):
    script = "request = greet(zstd=None)\nstart('gzip')\nif request['state']: state_in()\ngood(codec='gzip')\n"
    server.client("old", script=script)
    server.client("strict", script=script, policy=Policy("strict", gzip_fallback=False))
    old, strict = server.night()
    assert old.ok and not old.warning and "no zstd" in old.message
    assert (strict.ok, strict.code) == (False, "agent-refused")
    row = server.catalog.latest("old", "data")
    assert check_folder(Path(row.holding), keys(server), full=True).parts[0].name == "image-0000.tar.gz"
    assert places.find_index(server.settings.state, "old", "data", row.id).name.endswith(".tsv.gz")


def test_state_is_translated_for_a_client_that_lost_its_zstd(server):
    server.client("web1", script="greet()\nstart()\ngood(state=zstd.compress(b'blocks'))\n")
    server.one()
    server.say("web1", "greet(zstd=None)\nstart('gzip')\n(found,) = state_in()\n"
               "assert gzip.decompress(found, 100) == b'blocks'\ngood(codec='gzip')\n")  # fmt: skip
    assert server.one().level == 1


def test_parts_are_cut_at_frames(server):
    server.client(
        "web1", policy=Policy("small", compress="none", part_size=1000),
        script="greet(); start('none'); index(1, 'none')\nfor n in range(7):\n"
        "  frame(n, n * 400, b'%d' % n * 400, wire.LAST if n == 6 else 0, n // 2, 'none')\ndone(2800, 1)\n",
    )  # fmt: skip
    result = server.one()
    assert result.ok, result
    row = server.catalog.latest("web1", "data")
    manifest = check_folder(Path(row.holding), keys(server), full=True)
    assert [record.size for record in manifest.parts] == [800, 800, 800, 400]
    table = list(frames.read([(Path(row.holding) / "frames.tsv").read_bytes()]))
    assert [(one.part, one.place) for one in table] == [(n // 2, n % 2 * 400) for n in range(7)]


def test_a_clock_that_went_back_is_said_and_the_order_stays(server):
    server.client("web1")
    server.one()
    row = server.catalog.latest("web1", "data")
    ahead = clock.now_ns() + 400 * DAY
    with server.catalog._write() as connection:
        connection.exec_driver_sql("UPDATE dumps SET begun_ns = ?", (ahead,))
    result = server.one()
    assert result.ok and result.warning and "clock went back" in result.message
    latest = server.catalog.latest("web1", "data")
    assert latest.begun_ns == ahead + clock.NS and latest.counter == row.counter + 1
    assert latest.id.startswith(clock.stamp(ahead + clock.NS)) and latest.ended_ns >= latest.begun_ns


def test_notes_of_the_client_are_counted_bounded_and_escaped(server):
    server.client("web1", script="""
        greet(); start()
        channel.send_json(wire.NOTE, {'level': 'warning', 'path': 'a\\x1b[2J\\n', 'message': 'changed\\u202e \\udcff'})
        for n in range(1000):
            channel.send_json(wire.NOTE, {'level': 'info', 'path': 'p%d' % n, 'message': 'm' * 5000})
        good()
    """)  # fmt: skip
    result = server.one()
    assert (
        result.ok and result.warning and "1 warnings, the first: a\\x1b[2J\\x0a: changed\\u202e \\xff" == result.message
    )
    row = server.catalog.latest("web1", "data")
    assert row.warnings == 1 and len(row.notes) == 201 and row.notes[-1] == "and 801 more"
    assert max(map(len, row.notes)) < 1100


def test_what_was_not_kept_is_said(server):
    server.client("web1", script="greet(root=False); start(); good(root=False, not_kept=['devices', 'capabilities'])")
    result = server.one()
    assert result.warning and "without root" in result.message and "devices, capabilities" in result.message


def test_another_machine_at_the_clients_address_is_refused(server):
    server.client("web1", script="greet(client='web2\\x1b[2J'); start(); good()")
    result = server.one()
    assert (result.ok, result.code) == (False, "agent-refused") and "is web2\\x1b[2J by its" in result.message
    server.say("web1", "greet(client='web1'); start(); good()")
    assert server.one().ok


def test_a_full_holding_disk_costs_the_dump_that_does_not_fit(server):
    server.set(holding=(HoldingDisk(server.holding, 3 << 20),), dumps_at_once=1)
    server.client("big", policy=Policy("p", part_size=1), script="""
        greet(); start(); index(1)
        for n in range(9): frame(n, n << 20, os.urandom(1 << 20), wire.LAST if n == 8 else 0, n)
        done(9 << 20, 1)
    """)  # fmt: skip
    server.client("small")
    big, small = server.night()
    assert (big.ok, big.code) == (False, "holding-full") and "stowage stage" in big.hint
    assert small.ok and server.left() == []
    assert not (server.holding / ".incoming").exists()


def test_space_is_reserved_by_the_size_of_the_last_dump(server, tmp_path):
    touched = tmp_path / "touched"
    script = """
        open(%r, 'a').write('x'); greet(); start(); index(1)
        frame(0, 0, os.urandom(2 << 20), wire.LAST); done(2 << 20, 1)
    """
    server.client("web1", script=script % str(touched))
    assert server.one().ok
    server.set(holding=(HoldingDisk(server.holding, 4 << 20),))
    result = server.one(level=0)
    assert (result.ok, result.code) == (False, "holding-full")
    assert touched.read_text() == "x"  # refused before the client was asked


def test_another_servers_holding_disk_is_not_touched(server):
    server.client("web1")
    (server.holding / ".stowage").write_text("0123456789abcdef\n")
    stray = server.holding / ".incoming" / "web1" / "data" / "20261122T120000Z-L0-00000001"
    stray.mkdir(parents=True)
    with pytest.raises(ConfigError, match="belongs to the backup server"):
        server.night()
    assert stray.is_dir() and server.swept.problems


def test_one_holding_disk_of_two_that_is_gone_is_a_warning(server):
    server.set(holding=(HoldingDisk(server.base / "unmounted", 1 << 30), *server.settings.holding))
    server.client("web1")
    result = server.one()
    assert result.ok and result.warning and "unmounted is not there" in result.message


def test_the_run_is_witnessed_by_a_signed_record(server):
    server.client("web1")
    server.client("web2")
    server.client("bad", script="sys.exit(1)")
    server.night()
    path = places.run_record(server.settings.state, server.run.id)
    data = path.read_bytes()
    verify(data, path.with_suffix(".sig").read_bytes(), keys(server))
    record = json.loads(data)
    assert record["status"] == "FAIL" and record["run"] == server.run.id
    assert {one["dump"]: one["manifest_sha256"] for one in record["manifests"]} == {
        row.id: row.manifest_sha256 for row in server.catalog.dumps()
    }


def test_progress_is_told_while_it_happens(server):
    server.client("web1", script="greet(); start()\nfor n in range(4):\n  index(10); frame(n, n * 10, b'x' * 10, "
                  "wire.LAST if n == 3 else 0); time.sleep(0.25)\ndone(40, 40)\n")  # fmt: skip
    found = []
    watch = threading.Event()

    def look():
        while not watch.wait(0.1):
            found.append(status.read(server.settings))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert server.one().ok
    finally:
        watch.set()
        thread.join()
    phases = [event["phase"] for event in server.events]
    assert phases[0] == "connecting" and phases[-1] == "done" and "dumping" in phases
    assert [event["entries"] for event in server.events if event["phase"] == "dumping"][-1] >= 20
    alive = [one for one in found if one]
    assert alive and alive[-1]["alive"] and alive[-1]["pid"] == os.getpid() and alive[-1]["run"] == server.run.id
    assert status.read(server.settings) is None


def test_what_begins_later_is_told_at_once_with_its_time(server):
    server.client("web1", "db")
    server.client("web2", "data")
    later = clock.now_ns() + 4 * clock.NS
    planned = [Planned("web1", "db", 0, None, "", later), Planned("web2", "data", 0, None, "")]
    with runlock.hold(server.settings):
        run = server.catalog.begin_run("run")
        results = driver.run_dumps(
            server.settings, server.catalog, planned, run=run, progress=server.events.append
        )  # fmt: skip
    assert all(one.ok for one in results)
    first = server.events[0]
    assert (first["client"], first["source"], first["phase"]) == ("web1", "db", "waiting")
    assert first["not_before_ns"] == later
    assert [one["client"] for one in server.events if one.get("not_before_ns")] == ["web1"]
    assert sorted(one["client"] for one in server.events if one["phase"] == "done") == ["web1", "web2"]
    assert server.catalog.latest("web1", "db").begun_ns >= later > server.catalog.latest("web2", "data").begun_ns


def test_a_watcher_that_goes_away_costs_nothing(server):
    server.client("web1")
    server.client("web2")

    class Gone(list):
        def append(self, event):
            raise BrokenPipeError

    server.events = Gone()
    assert all(result.ok for result in server.night())


def _interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_an_interrupt_ends_the_dumps_at_work_and_leaves_nothing(server):
    server.client("slow", script="greet(); start(); frame(0, 0, b'x' * 100)\nwhile True:\n  time.sleep(0.1)\n"
                  "  channel.send_json(wire.PROGRESS, {'entries': 1, 'bytes': 1})\n")  # fmt: skip
    server.client("next")
    server.set(dumps_at_once=1)
    sent = []

    class Seen(list):
        def append(self, event):
            super().append(event)
            if event["phase"] == "dumping" and not sent:
                sent.append(threading.Timer(0.3, _interrupt))
                sent[0].start()

    server.events = Seen()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        server.night()
    assert sent and time.monotonic() - begun < 45  # and not for ever
    assert server.left() == [] and server.catalog.dumps() == [] and server.catalog.results(server.run.id) == []
    server.say("slow", "greet(); start(); good()")
    assert all(result.ok for result in server.night())


def test_states_of_dumps_that_are_no_base_any_more_go(server):
    server.client("web1")
    for _ in range(4):
        assert server.one(level=0).ok
    server.one()
    kept = [row.level for row in server.catalog.dumps("web1", "data") if row.state]
    assert kept == [0, 0, 1]
    assert len(list(places.state_folder(server.settings.state, "web1", "data").iterdir())) == 3
    assert len(list(places.index_folder(server.settings.state, "web1", "data").iterdir())) == 5


def test_a_dump_the_catalog_could_not_take_is_taken_by_the_next_run(server, monkeypatch):
    server.client("web1")
    with monkeypatch.context() as patch:

        def full(row):
            raise CatalogError("the catalog cannot be used: database or disk is full")

        patch.setattr(server.catalog, "add_dump", full)
        assert server.one().code == "catalog"
    assert server.catalog.dumps() == []
    assert server.one().level == 1
    assert server.swept.adopted == [server.catalog.dumps()[0].id]


def test_a_fault_in_our_own_code_costs_one_dump_and_says_so(server):
    server.client("web1")
    server.client("web2")
    from backupcore.dump import transport

    def connect(settings, client):
        if client.name == "web1":
            raise ZeroDivisionError("division by zero")
        return transport.connect(settings, client)

    first, second = server.night(connect=connect)
    assert not first.ok and "fault of Stowage itself: ZeroDivisionError" in first.message and "\n" not in first.message
    assert second.ok


def test_memory_stays_small_however_large_the_dump(server):
    # 40 frames of 4 MiB that do not compress, in a process of their own
    server.client("web1", policy=Policy("p", compress="none", part_size=1 << 30), script="""
        greet(); start('none'); index(1, 'none'); data = os.urandom(4 << 20)
        for n in range(40): frame(n, n << 22, data, wire.LAST if n == 39 else 0, 0, 'none')
        done(40 << 22, 1)
    """)  # fmt: skip
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import Server, Path
server = object.__new__(Server)
import pickle
server.settings = pickle.loads({__import__("pickle").dumps(server.settings)!r})
from backupcore.catalog.store import Catalog
from backupcore.image import codec; codec.get('zstd')
server.catalog = Catalog(server.settings.state / 'catalog.sqlite'); server.events = []
def peak(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) // 1024
before = peak()
assert server.one().ok
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 48


def test_a_dump_does_not_begin_before_its_time(server, monkeypatch):
    monkeypatch.setattr(driver, "LOOK", 0.1)
    server.client("web1", "early", "late")
    begin = clock.now_ns() + 2 * clock.NS
    planned = [Planned("web1", "late", 0, None, "", begin), Planned("web1", "early", 0, None, "")]
    with runlock.hold(server.settings):
        run = server.catalog.begin_run("run")
        results = driver.run_dumps(server.settings, server.catalog, planned, run=run)
    assert [result.source for result in results] == ["late", "early"] and all(result.ok for result in results)
    begun = {row.source: row.begun_ns for row in server.catalog.dumps()}
    assert begun["early"] < begin <= begun["late"] < begin + 20 * clock.NS


def test_an_interrupt_ends_dumps_that_wait_for_their_time(server):
    server.client("web1", "late")
    planned = [Planned("web1", "late", 0, None, "", clock.now_ns() + 3600 * clock.NS)]
    with runlock.hold(server.settings):
        run = server.catalog.begin_run("run")
        made = driver._Driver(server.settings, server.catalog, planned, run, [])
        thread = threading.Thread(target=made.work)
        thread.start()
        made._stop()
        thread.join(10)
    assert not thread.is_alive() and made.done() == []


LARGE = """
request = greet()
start()
import os
good(os.urandom(60_000))
"""


def test_real_bytes_never_go_over_a_hard_limit_whatever_was_expected(server):
    """Six clients at once, each with thrice of what was expected: what does not fit is ended, given up, and named."""
    planned = []
    for number in range(6):
        server.client(f"c{number}", "data", script=LARGE)
        planned.append(Planned(f"c{number}", "data", 0, None, "", claim=Claim({"bytes": 20_000.0}, 20_000.0)))
    taken = Budget({"bytes": 150_000.0})
    with runlock.hold(server.settings):
        run = server.catalog.begin_run("run")
        results = driver.run_dumps(
            server.settings, server.catalog, planned, run=run, progress=server.events.append, budget=taken
        )  # fmt: skip
    rows = server.catalog.dumps()
    assert sum(row.stored_size for row in rows) <= 150_000
    assert len(rows) == 2 and len(results) == 2 and all(result.ok for result in results)
    named = [one.planned.client for one in taken.given_up]
    assert sorted([*named, *(row.client for row in rows)]) == [f"c{number}" for number in range(6)]
    assert any(one.came and "ended when the limit of tonight's bytes was reached" in one.why for one in taken.given_up)
    assert server.left() == []
    assert {row.client for row in server.catalog.results(run.id)} == {row.client for row in rows}


def test_a_full_that_is_ended_leaves_its_place_to_its_changes(server):
    server.client("web1", "data")
    assert server.one().ok
    (full,) = server.catalog.dumps()
    server.say("web1", "import os\nrequest = greet()\nstart()\nif request['state']: state_in()\n"
                       "good(os.urandom(100 if request['state'] else 60_000))\n")  # fmt: skip
    small = Planned("web1", "data", 1, full.id, "instead", claim=Claim({"bytes": 200.0}, 9000.0))
    planned = [Planned("web1", "data", 0, None, "", claim=Claim({"bytes": 9000.0}, 9000.0), instead=(small,))]
    taken = Budget({"bytes": 10_000.0})
    with runlock.hold(server.settings):
        run = server.catalog.begin_run("run")
        (result,) = driver.run_dumps(server.settings, server.catalog, planned, run=run, budget=taken)
    assert (result.ok, result.level) == (True, 1)
    assert [(one.planned.level, one.came > 9000) for one in taken.given_up] == [(0, True)]
    assert [row.level for row in server.catalog.dumps()] == [0, 1] and server.left() == []


MEGABYTES = """
import os
request = greet(); start('none'); index(1, 'none'); data = os.urandom(1 << 20)
for n in range(40): frame(n, n << 20, data, wire.LAST if n == 39 else 0, n, 'none')
done(40 << 20, 1)
"""


def test_a_dump_that_waits_for_room_says_so_and_its_agents_silence_does_not_count(server):
    policy = Policy("p", compress="none", part_size=1 << 20)
    server.client("web1", script=MEGABYTES, policy=policy)
    server.set(holding=(HoldingDisk(server.holding, 60 << 20),), silence_timeout=3)
    old = server.holding / "web9" / "data" / "old"
    old.mkdir(parents=True)
    with open(old / "image", "wb") as stream:
        stream.truncate(30 << 20)
    begun, asked = [], []

    def relief(missing, dumped):
        begun.append(time.monotonic())
        asked.append(dict(missing))
        if begun[-1] - begun[0] > 5:
            (old / "image").unlink(missing_ok=True)
        return "copying web9:data to nas", "", ""

    made = []
    result = server.one(relief=relief, made=lambda *source: made.append(source))
    assert result.ok, result
    assert made == [("web1", "data")] and 0 < asked[0][server.holding] < 40 << 20
    whys = [event["why"] for event in server.events if event.get("why")]
    assert whys == ["waits for room on the holding disk: copying web9:data to nas"]
    assert [event["phase"] for event in server.events][-1] == "done"


def test_an_interrupt_ends_dumps_that_wait_for_room(server):
    server.client("web1", script=MEGABYTES, policy=Policy("p", compress="none", part_size=1 << 20))
    server.set(holding=(HoldingDisk(server.holding, 20 << 20),))
    sent = []

    def relief(missing, dumped):
        if not sent:
            sent.append(threading.Timer(0.3, _interrupt))
            sent[0].start()
        return "copying", "", ""

    with pytest.raises(KeyboardInterrupt):
        server.night(relief=relief)
    assert sent and server.left() == [] and server.catalog.results(server.run.id) == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EBADMSG, errno.ENOSPC])
def test_a_disk_that_fails_sends_its_dump_to_another_when_the_others_are_through(server, monkeypatch, error):
    other = server.base / "other"
    other.mkdir(mode=0o700)
    server.set(holding=(HoldingDisk(server.holding, 1 << 30), HoldingDisk(other, 1 << 29)), dumps_at_once=1)
    for name in ("web1", "web2", "web3"):
        server.client(name)
    bad = server.holding
    real = files.write_all

    def write_all(fd, data):
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(bad / ".incoming")):
            raise OSError(error, os.strerror(error))
        real(fd, data)

    def failing(real):  # such a disk does not even tell what it has
        def looked(path=".", *args, **more):
            if error != errno.ENOSPC and str(path).startswith(str(bad / ".incoming" / "web")):
                raise OSError(error, os.strerror(error), str(path))
            return real(path, *args, **more)

        return looked

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", write_all)
        for name in ("stat", "scandir"):
            patch.setattr(os, name, failing(getattr(os, name)))
        results = server.night()
    assert [one.ok for one in results] == [True, True, True], results
    rows = server.catalog.dumps()
    assert all(Path(row.holding).is_relative_to(other) for row in rows)
    order = [row.client for row in rows]
    if error != errno.ENOSPC:  # nothing more is tried there
        assert order == ["web2", "web3", "web1"]
        assert f"the holding disk {bad} cannot be written: {os.strerror(error)}" in results[1].message
    assert server.left() == []
