"""Rates and windows of copies: the limit over all uploads, what waits, what pauses, and what goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
from backupcore.hookspecs import Paused

from backupcore import clock
from backupcore.hours import parse_rates, parse_windows
from backupcore.settings import CopyRule, TargetSettings
from backupcore.stage import pace, stager
from backupcore.stage.pace import Gate, Limiter, Pace

CLOSED = parse_windows({"wed": "03:00-03:05"})


class Clock:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self):
        self.ns = clock.parse_iso("2026-11-23T12:00:00Z")

    def sleep(self, seconds):
        self.ns += max(1, round(seconds * clock.NS))

    def limiter(self, rates, **more):
        return Limiter(parse_rates(rates), now_ns=lambda: self.ns, monotonic=lambda: self.ns / clock.NS,
                       sleep=self.sleep, **more)  # fmt: skip


def test_so_many_bytes_take_so_long():
    now = Clock()
    begun, limiter = now.ns, now.limiter("8 Mbit/s")
    for _ in range(1001):
        limiter.take(10_000)
    assert 9.99 <= (now.ns - begun) / clock.NS <= 10.01


def test_what_was_not_used_is_not_saved_up():
    now = Clock()
    limiter = now.limiter("1 MB/s")
    limiter.take(1000)
    now.ns += 3600 * clock.NS
    begun = now.ns
    for _ in range(11):
        limiter.take(100_000)
    assert (now.ns - begun) / clock.NS >= 0.8


def test_a_piece_larger_than_a_second_is_paid_for_by_the_next():
    now = Clock()
    begun, limiter = now.ns, now.limiter("1 MB/s")
    limiter.take(30_000_000)
    assert now.ns == begun
    limiter.take(1)
    assert 29.9 <= (now.ns - begun) / clock.NS <= 30.6


def test_a_rate_changes_with_the_clock_also_while_somebody_waits():
    now = Clock()
    at = time.strftime("%H:%M", time.localtime(now.ns / clock.NS + 60))
    end = time.strftime("%H:%M", time.localtime(now.ns / clock.NS + 7200))
    begun, limiter = now.ns, now.limiter({f"{at}-{end}": "1 MB/s", "else": "1 kB/s"})
    limiter.take(100_000)  # 100 s at first; a minute later the 40 kB that are left take no time
    limiter.take(1)
    assert 60 <= (now.ns - begun) / clock.NS <= 61
    assert now.limiter("unlimited").take(1 << 40) is None


def test_who_waits_is_woken_to_end():
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt

    limiter = Clock().limiter("1 kB/s", check=check)
    limiter.take(1 << 20)
    with pytest.raises(KeyboardInterrupt):
        limiter.take(1)


@pytest.mark.parametrize("late", [0.0, 0.004, 0.05])
def test_two_uploads_share_one_rate_within_five_percent(late):
    """Also where each awakening is late. By a clock that only they move: a busy machine is late for other reasons."""
    now, sent = [0.0], [0, 0]

    def sleep(seconds):
        now[0] += max(seconds, 1e-6) + late

    limiter = Limiter(parse_rates("16 Mbit/s"), monotonic=lambda: now[0], sleep=sleep)

    def upload(number):
        for _ in range(125):
            limiter.take(16_000)
            sent[number] += 16_000

    threads = [threading.Thread(target=upload, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sent) == 4_000_000 and 2e6 * 0.95 <= sum(sent) / now[0] <= 2e6 * 1.05


def test_a_rate_is_held_by_the_machines_own_clock():
    limiter = Limiter(parse_rates("16 Mbit/s"))
    begun = time.monotonic()
    for _ in range(63):
        limiter.take(16_000)
    assert 1_008_000 / (time.monotonic() - begun) <= 2e6 * 1.05 + 16_000 / 0.5  # the last one is paid for by the next


def test_a_gate_pauses_when_its_window_closes_and_says_when_it_opens():
    now = [0]
    gate = Gate(parse_windows("22:00-06:00"), now_ns=lambda: now[0])
    now[0] = int(time.mktime((2026, 11, 23, 23, 0, 0, 0, 0, -1))) * clock.NS
    given = Pace(gate, [])
    given(5)
    assert gate.opens() is None
    now[0] += 7 * 3600 * clock.NS
    with pytest.raises(Paused, match="waits for its window: Tue 22:00"):
        given(0)
    assert gate.opens() == now[0] + 16 * 3600 * clock.NS


def test_a_copy_out_of_its_window_is_not_begun_and_no_failure(world):
    world.policy(CopyRule("nas", windows=CLOSED), CopyRule("disk"))
    dump = world.dump()
    asked = []
    inner = world.opened["nas"]
    world.opened = {"disk": world.opened["disk"]}  # nobody may even open it
    waits, done = world.stage()
    assert (done.target, done.ok, done.failed, done.waits) == ("disk", True, False, False)
    assert (waits.target, waits.ok, waits.failed, waits.waits) == ("nas", False, False, True)
    assert waits.message == "waits for its window: Wed 03:00" and waits.code == "waits"
    assert clock.parse_iso(waits.opens) > clock.now_ns() and not asked
    assert world.states(dump) == {"nas": "wanted", "disk": "verified"}
    assert stager.begins_now(world.settings, world.catalog) == []
    world.opened["nas"] = inner
    (made,) = world.stage(now=True)
    assert made.ok and world.states(dump) == {"nas": "verified", "disk": "verified"}


def test_copies_whose_window_opened_begin_by_themselves_and_failed_ones_a_while_later(world):
    world.policy(CopyRule("nas", windows=parse_windows("any")), CopyRule("disk"))
    dump = world.dump()
    found = stager.begins_now(world.settings, world.catalog)
    assert [(job.dump.id, job.row.target) for job in found] == [(dump.id, "nas")]  # the other has no window
    row = replace(found[0].row, state="failed", error="no")
    world.catalog.put_copy(row)
    assert stager.begins_now(world.settings, world.catalog) == []
    world.catalog.put_copy(replace(row, updated_ns=clock.now_ns() - stager.AGAIN_AFTER_NS - clock.NS))
    assert len(stager.begins_now(world.settings, world.catalog)) == 1


class Counted:
    """A target that tells what was put, and pauses the world behind some file."""

    def __init__(self, inner, stop):
        self.inner, self.stop, self.names = inner, stop, []

    def put(self, name, path, *, pace=None, **more):
        found = self.inner.put(name, path, pace=pace, **more)
        self.names.append(name.rpartition("/")[2])
        self.stop(self.names)
        return found

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Plain(Counted):
    """A third party's, which knows no pace."""

    def put(self, name, path, if_absent=False, sha256=None, resume=None, checkpoint=None, progress=None):
        more = {"if_absent": if_absent, "sha256": sha256, "resume": resume, "progress": progress}
        self.names.append(name.rpartition("/")[2])
        self.stop(self.names)
        return self.inner.put(name, path, checkpoint=checkpoint, **more)


@pytest.mark.parametrize("kind", [Counted, Plain])
def test_a_copy_that_meets_the_end_of_its_window_goes_on_in_the_next_and_sends_nothing_twice(world, kind):
    closed = []
    world.policy(CopyRule("nas", windows=parse_windows("any")))
    target = kind(world.opened["nas"], lambda names: closed.append(1) if "image-0000.tar.zst" in names else None)
    world.opened["nas"] = target
    dump = world.dump()
    assert pace.knows_pace(target) == (kind is Counted)
    (result,) = world.stage(leave=lambda: "the night begins" if closed else "")
    assert result.waits and not result.failed and result.message == "the night begins"
    row = world.catalog.copies(dump=dump.id)[0]
    assert row.state == "copying" and list(row.upload["files"]) == ["image-0000.tar.zst"] and row.error == ""
    first = [name for name in target.names if not name.endswith(".pub")]
    (result,) = world.stage()
    assert result.ok and world.states(dump) == {"nas": "verified"}
    assert len(target.names) == len(set(target.names))
    assert first[-1] == "image-0000.tar.zst" and world.files(world.root / "nas") == world.image(dump)


@pytest.mark.parametrize("where", ["target", "rule"])
def test_a_rate_holds_over_parallel_copies(world, where):
    rate = parse_rates("1 MB/s")
    world.policy(CopyRule("nas", rate=rate if where == "rule" else None))
    if where == "target":
        targets = {"nas": TargetSettings("nas", "directory", {}, rate=rate)}
        world.settings = replace(world.settings, targets=targets)
    dumps = [world.dump(client, parts=(700_000,)) for client in ("web1", "web2")]
    begun = time.monotonic()
    results = world.stage()
    took = time.monotonic() - begun
    assert all(one.ok for one in results) and len(results) == len(dumps) == 2
    total = sum(one.bytes for one in results)
    assert took >= (total - 750_000) / 1e6 and took < 45  # whole files are paid for by those behind them
