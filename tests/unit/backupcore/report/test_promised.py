"""What is promised of copies, and which promise is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backupcore import clock, hours
from backupcore import settings as s
from backupcore.app import promises
from backupcore.catalog import slim
from backupcore.catalog.records import CopyRow, DumpRow
from backupcore.catalog.store import Catalog
from backupcore.report import night, promised
from backupcore.report import text as report_text

DAY = 86400
NOW = 1_790_000_000 * clock.NS
RPO = 26 / 24
HALF = 0.5  # for dumping and copying


def source(*rules, **timing):
    return s.Source("web1", "etc", "tree", s.Policy("p", copies=rules), {}, s.Timing(**timing))


def days(rule, *others, **timing):
    found = promised.promise(source(rule, *others, **timing), rule)
    return None if found is None else found / DAY


def windows(text):
    return hours.parse_windows(text)


@pytest.mark.parametrize(
    ("rule", "timing", "expected"),
    [
        (s.CopyRule("nas"), {}, RPO + HALF),
        (s.CopyRule("nas", "full"), {"cycle": 7, "grace": 3}, 10 + HALF),
        (s.CopyRule("nas", "full"), {"strategy": "full"}, RPO + HALF),
        (s.CopyRule("nas", "incremental"), {}, RPO + 1 + HALF),
        (s.CopyRule("nas", "incremental"), {"strategy": "full"}, None),
        (s.CopyRule("nas", "2"), {}, None),
        (s.CopyRule("nas"), {"strategy": "skip"}, None),
        (s.CopyRule("nas", every="week"), {}, RPO + 7 + HALF),
        (s.CopyRule("nas", "full", every="week"), {"cycle": 7, "grace": 3}, 10 + 7 + HALF),
        (s.CopyRule("nas", every="month"), {}, RPO + 31 + HALF),
        (s.CopyRule("nas", made_on=frozenset({6})), {}, RPO + 6 + HALF),
        (s.CopyRule("nas", made_on=frozenset({0, 3})), {}, RPO + 3 + HALF),
        (s.CopyRule("nas", made_on=frozenset(range(7))), {}, RPO + HALF),
        (s.CopyRule("nas", windows=windows("22:00-06:00")), {}, RPO + 16 / 24 + HALF),
        (s.CopyRule("nas", windows=windows({"sat": "22:00-06:00"})), {}, RPO + 6 + 16 / 24 + HALF),
        (s.CopyRule("nas", windows=windows("any")), {}, RPO + HALF),
    ],
)  # fmt: skip
def test_a_promise(rule, timing, expected):
    found = days(rule, **timing)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_what_comes_after_another_copy_waits_for_that_one_s_window_too():
    nas, cloud = s.CopyRule("nas", windows=windows("22:00-06:00")), s.CopyRule("cloud", after="nas")
    assert days(cloud, nas) == pytest.approx(RPO + 16 / 24 + HALF)


class House:
    def __init__(self, tmp_path, *rules, **timing):
        self.catalog = Catalog(tmp_path / "catalog.sqlite")
        self.source = source(*rules, **timing)
        self.count = 0

    @property
    def settings(self):
        clients = {"web1": s.Client("web1", {"etc": self.source})}
        targets = {name: s.TargetSettings(name, "directory", {}) for name in ("nas", "cloud")}
        return s.Settings(Path("/etc/stowage/stowage.yml"), Path("/s"), Path("/k"), (), 7.0, targets, {}, clients)

    def dump(self, days_ago, level=0, base=None, segment="", on=("nas",), state="verified", holding=False, **more):
        self.count += 1
        begun = NOW - int(days_ago * DAY) * clock.NS
        row = DumpRow(
            id=f"dump{self.count}", client="web1", source="etc", segment=segment, type="tree", path="/etc",
            level=level, counter=self.count, begun_ns=begun, ended_ns=begun + 1, base=base, previous=None,
            run=more.pop("run", ""), codec="zstd", archive_size=1, stored_size=1, entries=1, files=1,
            holding="/h" if holding else None, manifest_sha256="0" * 64, **more,
        )  # fmt: skip
        self.catalog.add_dump(row)
        for target in on:
            self.catalog.put_copy(CopyRow(row.id, target, state))
        return row.id

    def look(self, since=0):
        known = {"nas": since, "cloud": since}
        return promised.look(self.settings, slim.read(self.catalog), known, NOW)


@pytest.fixture
def house(tmp_path):
    return lambda *rules, **timing: House(tmp_path, *rules, **timing)


def test_the_newest_that_can_be_restored_counts(house):
    world = house(s.CopyRule("nas"))
    full = world.dump(9)
    world.dump(8, 1, full)
    broken = world.dump(1, 1, full, on=())  # on no disk and no target: what builds on it is nothing either
    world.dump(0.5, 2, broken)
    (one,) = world.look()
    assert (one.dump, one.kept) == ("dump2", False)
    assert one.message == "the newest copy on nas is 8 days old, promised is 38 h 00"


def test_a_date_in_the_future_does_not_hide_how_old_a_copy_is(house):
    world = house(s.CopyRule("nas"))
    for days_ago in (10, 9):  # the clock had been a year ahead: dated a second behind the last, for a year
        world.dump(-365, run=f"{clock.stamp(NOW - days_ago * DAY * clock.NS)}-aaaa")
    world.dump(8, on=())  # so that it is not the source's own line that says it
    (one,) = world.look()
    assert (one.dump, one.kept, round(one.age / DAY)) == ("dump2", False, 9)


def test_a_chain_is_whole_there_or_anywhere(house):
    rule = s.CopyRule("nas")
    world = house(rule, s.CopyRule("cloud"))
    full = world.dump(2, on=("cloud",))
    world.dump(1, 1, full, on=("nas",))
    assert [(one.target, one.dump) for one in world.look() if one.target == "nas"] == [("nas", "dump2")]
    world.source = source(replace(rule, self_contained=True))
    (one,) = world.look()
    assert one.dump is None and one.age is None and not one.kept
    assert "no copy on nas can be restored" in one.message


@pytest.mark.parametrize("how", ["damaged", "failed", "wanted", "expired"])
def test_what_is_no_good_copy_does_not_count(house, how):
    world = house(s.CopyRule("nas"))
    world.dump(9)
    world.dump(0.5, state=how, holding=True)
    (one,) = world.look()
    assert (one.dump, one.kept) == ("dump1", False)


def test_of_segments_the_oldest_counts(house):
    world = house(s.CopyRule("nas", every="day"))
    for days_ago, segment in ((9, "s1of2-6000"), (0.2, "s2of2-6000")):
        assert world.dump(days_ago, segment=segment)
    (one,) = world.look()
    assert (one.dump, one.kept) == ("dump1", False)


def test_a_new_target_has_the_time_of_its_first_promise(house):
    world = house(s.CopyRule("nas"))
    world.dump(30, on=(), holding=True)
    world.dump(0.1, on=(), holding=True)
    assert [one.kept for one in world.look(NOW - DAY * clock.NS)] == [True]
    assert [one.kept for one in world.look(NOW - 2 * DAY * clock.NS)] == [False]
    assert promised.look(world.settings, slim.read(world.catalog), {}, NOW) == []


def test_what_is_not_dumped_any_more_is_its_source_s_own_trouble(house):
    world = house(s.CopyRule("nas"), s.CopyRule("cloud", "full"))
    world.dump(20, on=("nas", "cloud"))
    assert [(one.target, one.kept) for one in world.look()] == [("cloud", False), ("nas", True)]


def test_the_worst_first_and_the_report_says_it(house):
    world = house(s.CopyRule("nas"), s.CopyRule("cloud", every="week"))
    world.dump(20, on=("cloud",))
    world.dump(9, on=("nas",))
    world.dump(0.1, on=(), holding=True)
    found = world.look()
    assert [(one.target, one.kept) for one in found] == [("nas", False), ("cloud", False)]
    report = night.make(world.settings, world.catalog, NOW, promises=found)
    assert report.status == "WARN" and report.headline.startswith("WARN")
    told = report_text.render(report)
    assert "the newest copy on nas is 9 days old" in told and "the newest copy on cloud is 20 days old" in told
    data = report.as_dict()["promises"]
    assert data["kept"] == 0 and [one["target"] for one in data["broken"]] == ["nas", "cloud"]
    assert any(note.startswith("web1:etc the newest copy on nas") for note in report.notes) is False
    assert "stowage stage --target nas" in report.next


def test_closed_is_the_longest_time_between_two_spans():
    assert promised.closed(None) == 0
    assert promised.closed(windows("12:00-13:00, 22:00-06:00")) == 9 * 3600
    assert promised.closed(windows({"mon": "00:00-24:00"})) == 6 * DAY


@pytest.mark.parametrize("few", [0, 50])
def test_a_look_at_the_last_weeks_first_finds_the_same(house, monkeypatch, few):
    monkeypatch.setattr(promises, "since", lambda settings: {"nas": 0, "cloud": 0})
    monkeypatch.setattr(promises, "FEW", few)
    world = house(s.CopyRule("nas"), s.CopyRule("cloud", "full", every="month"))
    assert promises.look(world.settings, world.catalog, NOW) == []
    full = world.dump(400, on=("nas", "cloud"))
    for days_ago in (200, 60, 0.5):  # its chain is longer than the weeks that are read
        world.dump(days_ago, 1, full)
        found = promises.look(world.settings, world.catalog, NOW)
        assert found == world.look()
    assert [(one.target, one.kept) for one in found] == [("cloud", False), ("nas", True)]


def test_a_run_notes_a_target_once(house, tmp_path):
    world = house(s.CopyRule("nas"))
    settings = replace(world.settings, state=tmp_path / "state")
    assert promises.since(settings) == {}
    promises.note(settings)
    known = promises.since(settings)
    assert set(known) == {"nas", "cloud"} and abs(known["nas"] - clock.now_ns()) < 60 * clock.NS
    promises.note(settings)
    assert promises.since(settings) == known
    (tmp_path / "state/targets/nas/since").write_text("rubbish")
    assert set(promises.since(settings)) == {"cloud"}
