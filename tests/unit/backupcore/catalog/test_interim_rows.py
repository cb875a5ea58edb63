"""What an interim dump is to those who know only its manifest or its row: never a full, never a base."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from backupcore import clock, ids
from backupcore.app import plan_ask
from backupcore.catalog import units, wants
from backupcore.catalog.rows import row_of
from backupcore.errors import ImageDamaged
from backupcore.image import layout, restoretxt
from backupcore.image.manifest import FileRecord, Link, Manifest
from backupcore.restore import recent, shares
from backupcore.settings import CopyRule, Policy, Source, Timing

SHA = "ab" * 32
BEGUN = clock.parse_iso("2026-11-23T21:00:00Z")
DAY = 86400 * clock.NS
INTERIM = Manifest(
    server="00" * 8, client="web1", source="home", type="tree", path="/home", dump="20261123T210000Z-L0-0000000a",
    level=0, counter=1, begun_ns=BEGUN, ended_ns=BEGUN + 5, codec="zstd", archive_size=10, entries=3,
    parts=(FileRecord(layout.part_name(0, "zstd"), 5, SHA),), index=FileRecord(layout.index_name("zstd"), 1, SHA),
    frames=FileRecord(layout.frames_name("zstd"), 1, SHA), segment=ids.INTERIM, newer_ns=BEGUN - 7 * DAY + 1,
    sums_sha256=SHA, restore_sha256=SHA, signer=SHA,
)  # fmt: skip
ROW = row_of(INTERIM, SHA)
FULL = replace(ROW, id="20261125T210000Z-L0-0000000b", segment="", counter=2, begun_ns=BEGUN + 2 * DAY, options={})


def test_the_manifest_says_what_it_is():
    plain = json.loads(INTERIM.to_bytes())
    assert (plain["segment"], plain["newer"]) == ("interim", "2026-11-16T21:00:00.000000001Z")
    assert "folders" not in plain
    assert Manifest.from_bytes(INTERIM.to_bytes()) == INTERIM
    assert INTERIM.prefix == "web1/home.interim/20261123T210000Z-L0-0000000a"
    assert "newer" not in json.loads(replace(INTERIM, segment=None, newer_ns=0).to_bytes())


@pytest.mark.parametrize("wrong", [
    {"segment": None}, {"segment": "s1of2-abcd", "folders": ("a",)}, {"segment": "other"}, {"newer_ns": 0},
    {"newer_ns": BEGUN + 1},
    {"level": 1, "dump": "20261123T210000Z-L1-0000000a", "base": Link("20261122T210000Z-L0-0000000a", SHA)},
])  # fmt: skip
def test_one_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ImageDamaged):
        Manifest.from_bytes(replace(INTERIM, **wrong).to_bytes())


def test_a_rebuild_makes_the_row_that_the_dump_made():
    assert ROW.segment == "interim" and ROW.options["newer_ns"] == INTERIM.newer_ns == recent.newer_ns(ROW)
    assert recent.newer_ns(FULL) == 0 and recent.newer_ns(replace(ROW, options={"newer_ns": "x"})) == 0


def test_it_makes_up_no_source_and_retires_with_the_first_full():
    newest = units.newest_of([ROW])
    assert units.ways(newest) == [] and units.in_force(newest) == () and units.retired(newest) == frozenset()
    newest = units.newest_of([ROW, FULL])
    assert units.in_force(newest) == ("",) and units.retired(newest) == {"interim"}
    assert ids.parse_segment(ids.INTERIM) is None and ids.is_name(ids.INTERIM)


@pytest.mark.parametrize("moment, shown", [
    (-1, []), (0, [ROW]), (2 * DAY - 1, [ROW]), (2 * DAY, [FULL]), (9 * DAY, [FULL]),
])  # fmt: skip
def test_a_moment_is_read_from_it_only_before_the_first_full(moment, shown):
    def chain_at(rows):
        found = [row for row in rows if row.begun_ns <= BEGUN + moment]
        return tuple(found[-1:]), None

    assert list(shares.at([ROW, FULL], BEGUN + moment, chain_at)[0]) == shown


def test_a_full_that_cannot_be_read_is_not_replaced_by_half_a_source():
    chain, parts, passed = shares.at(
        [ROW, FULL], BEGUN + 3 * DAY, lambda rows: ((), FULL) if FULL in rows else (tuple(rows), None)
    )  # fmt: skip
    assert (chain, parts, passed) == ((), (), FULL)


def test_it_goes_where_changes_go():
    policy = Policy("p", copies=(CopyRule("a"), CopyRule("b", "full"), CopyRule("c", "incremental")))
    found = wants.wanted(Source("web1", "home", "tree", policy, {}), [ROW, FULL], {})
    assert found == {ROW.id: ("a", "c"), FULL.id: ("a", "b")}


def test_the_text_beside_it_says_that_it_is_no_full():
    told = restoretxt.restore_text(INTERIM, "then", "later").decode()
    assert "level    none: an interim dump of files changed since 2026-11-16T21:00:00Z, not of all" in told
    assert "NO FULL" in told and "../../home.interim" in told and "nothing else is needed" not in told
    whole = restoretxt.restore_text(replace(INTERIM, segment=None, newer_ns=0), "then", "later").decode()
    assert "NO FULL" not in whole and "0, a full: nothing else is needed" in whole


class Catalog:
    """One that has dumps, and runs with such plans."""

    def __init__(self, rows, *given):
        self.rows, self.given = rows, given

    def dumps(self, _client, _source):
        return self.rows

    def runs(self, limit, kind):
        assert kind == "run" and limit > 0
        return [SimpleNamespace(summary=one) for one in self.given]


def test_what_is_said_of_the_full():
    given = {"plan": {"given_up": [
        {"client": "web1", "source": "etc", "what": "first", "until": "2026-11-24"}, {"client": "web1"},
        {"client": "web1", "source": "home", "what": "first", "until": "2026-11-25"},
    ]}}  # fmt: skip
    told = recent.note(Catalog([ROW], {}, {"plan": "?"}, {"plan": {"given_up": [None]}}, given), "web1", "home", ROW)
    since = clock.local(INTERIM.newer_ns)
    assert told == f"web1:home: only files changed since {since}: the first full of web1:home is planned for Wed 25 Nov"
    assert recent.note(Catalog([ROW]), "web1", "home", ROW).endswith("is not planned yet")
    assert "was made on" in recent.note(Catalog([ROW, FULL]), "web1", "home", ROW)
    assert recent.only_recent(Catalog([ROW]), [ROW]) and not recent.only_recent(Catalog([ROW]), [ROW, FULL])
    assert recent.notes(Catalog([ROW]), [("web1", "home", (FULL,))]) == []


@pytest.mark.parametrize("days, kind, since", [(7.0, "tree", BEGUN - 7 * DAY), (0.5, "tree", BEGUN - DAY // 2),
                                               (0.0, "tree", None), (7.0, "db", None)])  # fmt: skip
def test_since_when(days, kind, since):
    source = Source("web1", "home", kind, Policy("p"), {}, Timing(interim=days))
    assert plan_ask.newer_of(source, BEGUN) == since
