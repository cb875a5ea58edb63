"""Nights one after the other under wrong clocks, damage, holds, locks and rules that change: what real prunes leave.

test_retention.py looks at single decisions; here is what becomes of a history under the catalog, its marks and places
that hold their files.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from backupcore.hookspecs import Lock, Stored, TargetError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from zoneinfo import ZoneInfo

from backupcore import clock, ids
from backupcore.catalog import marks, places, units
from backupcore.catalog.records import CopyRow, DumpRow
from backupcore.catalog.store import Catalog
from backupcore.image import layout
from backupcore.restore import shares
from backupcore.settings import Client, CopyRule, HoldingDisk, Policy, PruneSettings, Settings, Source, TargetSettings
from backupcore.stage import wanted
from backupcore.stage.origins import prefix_of
from backupcore.stage.prune import prune
from backupcore.stage.release import may_go

NS = clock.NS
DAY = 86400 * NS
TARGETS = ("nas", "cloud", "far")
GOOD = ("verified", "done")
CUTS = (("s1of2-aaaa", "s2of2-aaaa"), ("s1of3-bbbb", "s2of3-bbbb", "s3of3-bbbb"))


class Place:
    """A place in memory that locks. now_ns: its own clock, which is right. locks: name -> until when."""

    def __init__(self, mark):
        self.names, self.locks, self.holds, self.now_ns = {mark}, {}, set(), 0
        self.capabilities = SimpleNamespace(delete=True, lock=True)

    def list(self, prefix=""):
        return iter([Stored(name, 1) for name in sorted(self.names) if name.startswith(prefix)])

    def stat(self, name):
        return Stored(name, 1) if name in self.names else None

    def lock(self, name, until_ns):
        self.locks[name] = max(until_ns, self.locks.get(name, 0))
        return self.locked(name)

    def legal_hold(self, name, on):
        (self.holds.add if on else self.holds.discard)(name)
        return self.locked(name)

    def locked(self, name):
        return Lock(self.locks.get(name, 0), "compliance" if name in self.locks else "", name in self.holds)

    def delete(self, name):
        if name in self.holds or self.locks.get(name, 0) > self.now_ns:
            raise TargetError(f"{name} is locked")
        self.names.discard(name)


class Nights:
    """A server whose clock may be wrong. true_ns: what time it is; skew_ns: by how much its clock is ahead."""

    def __init__(self, root: Path, zone: str, begin: datetime, rules, min_copies=None, grace=3 * 86400.0):
        self.begin, self.zone, self.skew_ns = begin.replace(tzinfo=ZoneInfo(zone)), zone, 0
        self.true_ns = int(self.begin.timestamp()) * NS
        self.settings = Settings(
            file=root / "stowage.yml", state=root / "state", keys=root / "keys",
            holding=(HoldingDisk(root / "holding", -1),), cycle_days=7, policies={}, clients={},
            targets={name: TargetSettings(name, "directory", {}) for name in TARGETS},
            prune=PruneSettings(grace=grace),
        )  # fmt: skip
        self.root, self.rules, self.min_copies = root, tuple(rules), min_copies
        self.say()
        self.catalog = Catalog(places.catalog_file(self.settings.state))
        self.places = {name: Place(f"{layout.MARK}/{places.server_id(self.settings.state)}") for name in TARGETS}
        self.made = []  # (true night, dump), all that was ever dumped

    def say(self):
        """The rules hold from now on."""
        policy = Policy("standard", copies=self.rules, min_copies=self.min_copies)
        source = Source("c", "s", "tree", policy, {"path": "/x"})
        self.settings = replace(self.settings, clients={"c": Client("c", {"s": source})})

    def go_to(self, night, minutes=0):
        """The evening of a night by the clock on the wall."""
        wall = (self.begin.replace(tzinfo=None) + timedelta(days=night, minutes=minutes)).replace(
            tzinfo=ZoneInfo(self.zone))  # fmt: skip
        self.true_ns = int(wall.timestamp()) * NS
        for place in self.places.values():
            place.now_ns = self.true_ns

    @property
    def now_ns(self):
        return self.true_ns + self.skew_ns

    def dump(self, night, level=0, segment="", run=""):
        rows = self.catalog.dumps("c", "s")
        unit = [row for row in rows if row.segment == segment and row.level < level and not row.damaged]
        base = unit[-1] if level and segment != ids.INTERIM and unit else None
        last = max((row.begun_ns for row in rows), default=0)
        begun = self.now_ns if self.now_ns > last else last + NS  # as dump/source.py dates it
        counter = self.catalog.next_counter("c", "s")
        level = level if base is not None or segment == ids.INTERIM else 0
        parsed = ids.parse_segment(segment)
        folders = () if parsed is None else (
            tuple(f"d{n}" for n in range(1, parsed.count)) if parsed.rest else (f"d{parsed.number}",)
        )  # fmt: skip
        row = DumpRow(
            ids.new_dump_name(clock.stamp(begun), level), "c", "s", segment, "tree", "/x", level, counter, begun,
            begun + 5, base.id if base else None, None, run or ids.new_run_id(clock.stamp(self.now_ns)), "zstd", 1, 1,
            1, 1, str(self.root / "holding" / f"{counter}"), "", options={"folders": list(folders)},
        )  # fmt: skip
        self.catalog.add_dump(row)
        self.made.append((night, row))
        return row

    def copies(self):
        found = {row.id: {} for row in self.catalog.dumps()}
        for copy in self.catalog.copies():
            found.setdefault(copy.dump, {})[copy.target] = copy
        return found

    def files_of(self, row):
        return [f"{prefix_of(row)}/{name}" for name in (layout.MANIFEST, "image-0000.tar.zst")]

    def stage(self, fate=lambda _row, _target: "verified"):
        """Makes the copies that are wanted; fate: what becomes of one."""
        for row in self.catalog.dumps():
            for due in wanted.due(self.settings, self.catalog, sources=[("c", "s")]):
                if due.dump.id != row.id:
                    continue
                state = fate(row, due.row.target)
                if state in GOOD:
                    self.places[due.row.target].names |= set(self.files_of(row))
                self.catalog.put_copy(CopyRow(row.id, due.row.target, state))
        for row in may_go(self.settings, self.catalog):
            self.catalog.set_holding(row.id, None)

    def prune(self):
        return prune(self.settings, self.catalog, self.places.__getitem__, self.now_ns)

    def whole(self, target):
        """The dumps that are whole at a place, and in the catalog good there."""
        copies = self.copies()
        return {
            row.id for row in self.catalog.dumps()
            if (copy := copies[row.id].get(target)) is not None and copy.state in GOOD
            and set(self.files_of(row)) <= self.places[target].names
        }  # fmt: skip

    def restorable(self, target):
        """Of those the ones whose chain is whole, wherever it lies."""
        rows = {row.id: row for row in self.catalog.dumps()}
        anywhere = {name for name, row in rows.items() if row.holding and not row.damaged}
        for name in TARGETS:
            anywhere |= self.whole(name)

        def ok(name):
            while name is not None:
                if name not in anywhere:
                    return False
                name = rows[name].base
            return True

        return {name for name in self.whole(target) if ok(name)}

    def close(self):
        self.catalog.close()


@pytest.fixture(autouse=True)
def zone_again():
    before = os.environ.get("TZ")
    yield
    if before is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = before
    time.tzset()


def live_in(zone):
    os.environ["TZ"] = zone
    time.tzset()


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland"])
BEGINS = st.sampled_from([datetime(2026, 3, 20, 22), datetime(2026, 10, 20, 22), datetime(2026, 12, 20, 22)])
# whole weeks, so that its weeks are those of people
FAR = st.sampled_from([days * 86400 for days in (7, -7, 42, 420, -420)])


@st.composite
def clocks(draw, count):
    """By how much a clock is ahead in each night: an hour now and then, and far once, for a while or for good."""
    found = [draw(st.sampled_from([0, 0, 0, 0, 3600, -3600])) for _ in range(count)]
    begin, length, far = draw(st.integers(0, count - 1)), draw(st.sampled_from([0, 1, 1, 2, 5, count])), draw(FAR)
    return [one + (far if begin <= night < begin + length else 0) for night, one in enumerate(found)]


# a history is too long to be made smaller in reasonable time
SLOW = settings(
    max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)
WORDS = {"daily": "%Y-%m-%d", "weekly": "%G-%V"}


@SLOW
@given(
    ZONES, BEGINS, clocks(24), st.sampled_from(sorted(WORDS)), st.integers(2, 9), st.sampled_from([1, 7]),
)  # fmt: skip
def test_what_a_clock_says_costs_no_restore_point(tmp_path_factory, zone, begin, jumps, word, count, cycle):
    live_in(zone)
    nights = Nights(
        tmp_path_factory.mktemp("n"), zone, begin, [CopyRule("nas", keep={word: count})], grace=0.0)  # fmt: skip
    step = {"daily": 1, "weekly": 3}[word]
    for night, jump in enumerate(jumps):
        nights.go_to(night * step)
        nights.skew_ns = jump * NS
        nights.dump(night * step, 0 if night % cycle == 0 else 1)
        nights.stage()
        for _ in range(2):
            nights.prune()
        there = nights.restorable("nas")
        last_of = {}
        for when, row in nights.made:
            last_of[(begin + timedelta(days=when)).strftime(WORDS[word])] = row.id
        # by the days that people saw; a week in which the clock jumped, and jumped back, is two of them
        asked = list(last_of.values())[-(count if word == "daily" else max(1, count - 2)):]  # fmt: skip
        assert set(asked) <= there, (jumps[: night + 1], [name for name in asked if name not in there])
    nights.close()


# whatever happens

KEEPS = st.fixed_dictionaries({}, optional={
    "last": st.integers(1, 4), "days": st.integers(1, 6), "daily": st.integers(1, 6), "weekly": st.integers(1, 3),
    "monthly": st.integers(1, 2),
})  # fmt: skip
RULES = [
    st.builds(
        CopyRule, st.just(target), st.sampled_from(["all", "all", "full", "incremental"]),
        st.sampled_from(["", "", "week"]), keep=KEEPS, self_contained=st.booleans(),
        lock=st.sampled_from([0.0, 0.0, 5 * 86400.0]),
    )
    for target in TARGETS
]  # fmt: skip


def shown(rows, copies, target, when):
    """The dumps that a restore reads for a moment: the newest on target, with what they build on wherever it is."""
    anywhere = {
        row.id: row for row in rows
        if not row.damaged and (row.holding or any(copy.state in GOOD for copy in copies[row.id].values()))
    }  # fmt: skip

    def chain(row):
        found = []
        while row is not None:
            found.append(row)
            row = anywhere.get(row.base) if row.base else None
        return tuple(found[::-1]) if found and found[-1].base is None else None

    usable = [
        row for row in rows
        if row.id in anywhere and row.segment != ids.INTERIM and chain(row)
        and target in copies[row.id] and copies[row.id][target].state in GOOD
    ]  # fmt: skip

    def chain_at(found):
        for row in sorted(found, key=lambda row: -row.counter):
            whole = chain(anywhere[row.id]) if row.id in anywhere and row.begun_ns <= when else None
            if whole:
                return whole, None
        return (), None

    return frozenset(row.id for row in shares.at(usable, when, chain_at)[0])


def promised(rows, copies, rule, now_ns):
    """moment -> what is to be shown of it, by every word of keep, read by the dates of the dumps."""
    runs = {}
    for row in rows:
        if row.segment != ids.INTERIM:
            runs[row.run if row.segment else row.id] = max(row.begun_ns, runs.get(row.run, 0))
    views = []
    for when in sorted(set(runs.values())):
        view = shown(rows, copies, rule.target, when)
        if view and view not in [one for _when, one in views]:
            views.append((when, view))
    asked, count = [], len(views)
    for number, (when, _view) in enumerate(views):
        day = datetime.fromtimestamp(when // NS)
        later = [datetime.fromtimestamp(one // NS) for one, _view in views[number + 1:]]
        newest = datetime.fromtimestamp(min(now_ns, views[-1][0]) // NS)
        wanted_here = [number >= count - max(1, rule.keep.get("last", 0))]
        wanted_here.append("days" in rule.keep and (newest.date() - day.date()).days <= rule.keep["days"])
        for word, form in (("daily", "%Y-%m-%d"), ("weekly", "%G-%V"), ("monthly", "%Y-%m")):
            spans = {one.strftime(form) for one in later}
            wanted_here.append(day.strftime(form) not in spans and len(spans) < rule.keep.get(word, 0))
        if any(wanted_here):
            asked.append(number)
    return {views[number][0]: views[number][1] for number in asked}


class Checked(Nights):
    """Nights whose every prune is looked at."""

    def prune(self):
        before, rows = self.copies(), self.catalog.dumps()
        by_id = {row.id: row for row in rows}
        self.told_holds = {(one.kind, one.name) for one in marks.held(self.catalog)}
        was = {name: set(place.names) for name, place in self.places.items()}
        done = super().prune()
        after = self.copies()
        left = {row.id: after.get(row.id, {}) for row in rows}
        gone = set(done.removed)
        for target, place in self.places.items():
            for name, until in place.locks.items():
                assert until <= self.true_ns or name not in was[target] or name in place.names, "locked, and gone"
            for row in rows:
                files = set(self.files_of(row))
                here = files & place.names
                state = left[row.id][target].state if target in left[row.id] else ""
                if state in (*GOOD, "damaged"):
                    assert here == files, "the catalog says that it is there"
                if (row.id, target) in gone:
                    assert not here, "nothing of what was removed takes room"
        for name, _target in gone:
            assert ("client", "c") not in self.told_holds and ("dump", name) not in self.told_holds
        for kind, name in self.told_holds:
            link = by_id.get(name) if kind == "dump" else None
            while link is not None:
                assert not {(link.id, target) for target in TARGETS} & gone, "what is held, with its chain"
                link = by_id.get(link.base) if link.base else None
        rules = {rule.target: rule for rule in self.settings.clients["c"].sources["s"].copies}
        for target, rule in rules.items():
            if not rule.keep:
                assert not any(where == target for _name, where in gone)
                continue
            for when, view in promised(rows, before, rule, self.now_ns).items():
                assert shown(rows, left, target, when) == view, (target, rule, clock.iso(when))
        # where nobody asks for a dump any more each copy goes when its own grace is over, and one is the first
        asked = {one.decision.dump.id for one in done.verdicts
                 if one.decision.stays and not one.decision.reason.startswith("cannot be restored")}  # fmt: skip
        for row in rows:
            copies = left[row.id]
            stays = [target for target, copy in copies.items() if copy.state in GOOD]
            if (stays or row.holding) and not row.damaged and row.base in before:
                if any(one.state in GOOD for one in before[row.base].values()) or by_id[row.base].holding:
                    assert row.base in self.copies() and (
                        by_id[row.base].holding or any(one.state in GOOD for one in left[row.base].values())
                    ), "what stays does not lose its base"
            verified = [sum(copy.state == "verified" for copy in one[row.id].values()) for one in (before, left)]
            ruled = row.segment != ids.INTERIM and any(target in rules for target in before[row.id])
            if stays and ruled and row.id in asked:
                assert verified[1] >= min(verified[0], self.min_copies or 1)
        fulls = [
            row for row in rows if row.level == 0 and row.segment != ids.INTERIM and not row.damaged
            and any(copy.state in GOOD for copy in before[row.id].values())
        ]  # fmt: skip
        for segment in units.in_force(units.newest_of(fulls)):
            last = [row for row in fulls if row.segment == segment][-1]
            assert last.holding or any(copy.state in GOOD for copy in left[last.id].values()), "the last good full"
        return done


def full_of_events(data, nights):
    """What may happen between two nights."""
    what = data.draw(st.sampled_from([""] * 8 + ["damage", "heal", "hold", "release", "rules", "spoil", "client"]))
    rows = nights.catalog.dumps()
    copies = nights.catalog.copies()
    if what == "damage" and (good := [one for one in copies if one.state == "verified"]):
        nights.catalog.put_copy(replace(data.draw(st.sampled_from(good)), state="damaged"))
    elif what == "heal":
        for one in copies:
            if one.state == "damaged":
                nights.catalog.put_copy(replace(one, state="verified"))
    elif what == "hold" and rows:
        marks.hold(nights.catalog, marks.DUMP, data.draw(st.sampled_from(rows)).id, "court")
    elif what == "client":
        marks.hold(nights.catalog, marks.CLIENT, "c", "court")
    elif what == "release":
        for one in marks.held(nights.catalog):
            marks.release(nights.catalog, one.kind, one.name)
    elif what == "spoil" and rows:
        row = data.draw(st.sampled_from(rows))
        if not row.holding:
            nights.catalog.mark_damaged(row.id)
            for one in nights.catalog.copies(dump=row.id):
                if one.state in GOOD:
                    nights.catalog.put_copy(replace(one, state="damaged"))
    elif what == "rules":
        some = data.draw(st.permutations(RULES))[: data.draw(st.integers(1, 3))]
        nights.rules = tuple(data.draw(one) for one in some)
        nights.say()


@SLOW
@given(st.data(), ZONES, BEGINS, clocks(16), st.sampled_from([None, 1, 2]), st.sampled_from([0.0, 3 * 86400.0]))
def test_nothing_that_happens_costs_a_chain_or_a_promise(tmp_path_factory, data, zone, begin, jumps, least, grace):
    live_in(zone)
    rules = [data.draw(one) for one in RULES]
    nights = Checked(tmp_path_factory.mktemp("n"), zone, begin, rules, least, grace)
    segments, night = (data.draw(st.sampled_from(["", ids.INTERIM])),), 0
    for jump in jumps:
        night += data.draw(st.sampled_from([1, 1, 1, 2, 9]))
        nights.go_to(night, data.draw(st.integers(-120, 240)))
        nights.skew_ns = jump * NS
        if data.draw(st.integers(0, 6)) == 0:
            segments = data.draw(st.sampled_from([("",), *CUTS]))
        run = ids.new_run_id(clock.stamp(nights.now_ns))
        for name in segments:
            nights.dump(night, data.draw(st.sampled_from([0, 1, 1, 2])), name, run)
        nights.stage(lambda _row, _target: data.draw(st.sampled_from(["verified"] * 9 + ["done", "failed"])))
        full_of_events(data, nights)
        nights.prune()
    nights.close()
