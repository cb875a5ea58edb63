"""Nights that have not been, foreseen: what comes, where it goes, what goes again; against counting by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest
from backupcore.hookspecs import Spent

from backupcore import clock
from backupcore.app import forecasting, plan_kept, planning
from backupcore.app.forecasting import forecast
from backupcore.catalog import marks, places, spending
from backupcore.catalog.records import CopyRow, DumpRow, ResultRow
from backupcore.catalog.store import Catalog
from backupcore.cost import usage
from backupcore.settings import (
    Client,
    CopyRule,
    Policy,
    Price,
    PruneSettings,
    Settings,
    Source,
    TargetSettings,
    Timing,
)
from backupcore.stage import prune, wanted

DAY = 86400 * clock.NS
GB = 10**9
NOW = int(datetime(2026, 11, 15, 12, tzinfo=timezone.utc).timestamp()) * clock.NS
DAILY = Price(0.0, 0.0, "$", storage_gb=((None, 1.0),))


class World:
    """Sources of 1 GB each that are dumped each night; what was dumped so far went where the first rules say."""

    def __init__(self, folder):
        self.catalog = Catalog(folder / "catalog.sqlite")
        self.settings = Settings(
            file=folder / "stowage.yml", state=folder / "state", keys=folder / "keys", holding=(), cycle_days=7,
            targets={name: TargetSettings(name, "directory", {}, DAILY) for name in ("nas", "cloud")}, policies={},
            clients={}, prune=PruneSettings(grace=0.0),
        )  # fmt: skip
        self.number = 0

    def source(self, name="etc", *rules, **timing):
        policy = Policy("standard", copies=tuple(rules))
        made = Source("web1", name, "tree", policy, {"path": "/x"}, Timing(**timing), copies=tuple(rules))
        sources = {**(self.settings.clients["web1"].sources if self.settings.clients else {}), name: made}
        self.settings = replace(self.settings, clients={"web1": Client("web1", sources)})

    def dump(self, begun, name="etc", level=0, size=GB, targets=(), base=None):
        self.number += 1
        stamp = clock.stamp(begun)
        dump = f"{stamp}-L{level}-{self.number:08x}"
        row = DumpRow(
            dump, "web1", name, "", "tree", "/x", level, self.number, begun,
            begun + clock.NS, base, None, f"{stamp}-0000", "zstd", 2 * size, size, 100, 90, None, "x",
            state=dump + ".state",
        )  # fmt: skip
        self.catalog.add_dump(row)
        for target in targets:
            self.catalog.put_copy(CopyRow(row.id, target, "verified", {}, size, begun, begun))
        return row

    def past(self, days=10, **more):
        return [self.dump(NOW - (days - number) * DAY, **more) for number in range(days)]

    def foresee(self, now=NOW):
        found = forecast(self.settings, self.catalog, now)
        return tuple({row.name: row for row in rows} for rows in (found.of_this, found.of_next))


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.catalog.close()


def test_fulls_each_night_for_ever_come_as_often_as_the_month_has_nights(world):
    world.source("etc", CopyRule("nas"), strategy="full")
    world.past(targets=("nas",))
    this, coming = world.foresee()
    assert this["nas"].copies == 10 + 16 and coming["nas"].copies == 10 + 16 + 31  # tonight is the 15th's
    assert coming["nas"].came == 31 * GB and coming["nas"].bytes == 57 * GB
    # a GB that comes at the end of night n of 31 lies there for the rest of the month
    assert coming["nas"].amounts.held / GB == pytest.approx(26 + sum(range(31)) / 31, abs=0.1)
    assert coming["nas"].money["$"] == pytest.approx(coming["nas"].amounts.held / GB)


def test_what_is_past_its_keep_goes_again(world):
    world.source("etc", CopyRule("nas", keep={"last": 5}), CopyRule("cloud"), strategy="full")
    world.past(targets=("nas", "cloud"))
    this, coming = world.foresee()
    assert (this["nas"].copies, coming["nas"].copies) == (5, 5)
    assert coming["cloud"].copies == 57 and coming["nas"].came == coming["cloud"].came
    assert coming["nas"].amounts.held / GB == pytest.approx(5, abs=0.2)


def test_grace_holds_and_a_prune_that_never_runs_keep_all(world):
    world.source("etc", CopyRule("nas", keep={"last": 5}), strategy="full")
    world.past(targets=("nas",))
    world.settings = replace(world.settings, prune=PruneSettings(grace=3 * 86400.0))
    assert world.foresee()[1]["nas"].copies == 8
    marks.hold(world.catalog, marks.CLIENT, "web1", "")
    assert world.foresee()[1]["nas"].copies == 57
    marks.release(world.catalog, marks.CLIENT, "web1")
    world.settings = replace(world.settings, prune=PruneSettings(nightly=False))
    assert world.foresee()[1]["nas"].copies == 57


def test_locks_hold_what_keep_lets_go(world):
    world.source("etc", CopyRule("nas", keep={"last": 2}, lock=20 * 86400.0), strategy="full")
    world.past(targets=("nas",))
    assert 19 <= world.foresee()[1]["nas"].copies <= 21


@pytest.mark.parametrize(("every", "copies"), [("week", (5, 4)), ("month", (1,)), ("day", (31,))])
def test_every_goes_by_the_calendar(world, every, copies):
    world.source("etc", CopyRule("nas", every=every), strategy="full")
    world.past(targets=())
    this, coming = world.foresee()
    assert coming["nas"].came // GB in copies


def test_fulls_and_changes_go_where_the_rules_say(world):
    world.source("etc", CopyRule("nas", dumps="full"), CopyRule("cloud", dumps="incremental"))
    world.past(days=10, targets=("nas",))
    _this, coming = world.foresee()
    fulls = coming["nas"].came / GB
    assert 4 <= fulls <= 6 and coming["cloud"].copies > 0
    assert coming["cloud"].came < coming["nas"].came


def test_a_target_that_is_new_gets_what_is_there_at_once(world):
    world.source("etc", CopyRule("nas"), CopyRule("cloud"), strategy="full")
    world.past(targets=("nas",))
    nas = replace(world.settings.targets["nas"], price=replace(DAILY, read_gb=2.0, request_1000=1.0))
    world.settings = replace(world.settings, targets={**world.settings.targets, "nas": nas})
    this, coming = world.foresee()
    assert this["cloud"].came == 26 * GB  # ten of before, sixteen nights
    assert this["nas"].amounts.spent.got == 10 * GB  # read from where they are
    assert this["nas"].bills["nas"].read == pytest.approx(20.0)
    assert coming["nas"].amounts.spent.got == 0


def test_what_was_used_so_far_and_goes_on_each_month_is_in_it(world):
    world.source("etc", CopyRule("nas"), strategy="full")
    world.past(targets=("nas",))
    spending.add_spent(world.catalog, "nas", Spent(write=10, read=3100, got=31 * GB), "2026-10")
    spending.add_spent(world.catalog, "nas", Spent(write=40, read=100, got=GB), "2026-11")
    this, coming = world.foresee()
    assert coming["nas"].amounts.spent.got == 31 * GB and coming["nas"].amounts.spent.read == 3100
    assert this["nas"].amounts.spent.got == pytest.approx(GB + 31 * GB * 15.5 / 30, rel=1e-6)
    assert coming["nas"].amounts.spent.write > 31


def test_retired_and_skipped_sources_bring_nothing(world):
    world.source("etc", CopyRule("nas"), strategy="skip")
    world.past(targets=("nas",))
    this, coming = world.foresee()
    assert (this["nas"].copies, coming["nas"].copies, coming["nas"].came) == (10, 10, 0)
    clients = {"web1": replace(world.settings.clients["web1"], state="retired")}
    world.settings = replace(world.settings, clients=clients)
    assert world.foresee()[1]["nas"].copies == 10


def test_schedules_of_their_own_are_followed(world):
    world.source("etc", CopyRule("nas"), full="sun 20:00", incremental="mon-sat 20:00, 22:00")
    full = world.dump(NOW - 6 * DAY, targets=("nas",))
    for number in range(1, 6):
        world.dump(NOW - (6 - number) * DAY, level=1, size=GB // 100, targets=("nas",), base=full.id)
    _this, coming = world.foresee()
    # Sundays of December 2026: 6, 13, 20, 27; two changes on each of the 27 other days
    assert 4 <= coming["nas"].came / GB < 5.9
    assert coming["nas"].copies - world.foresee()[0]["nas"].copies in range(4 + 2 * 27 - 2, 4 + 2 * 27 + 3)


def test_nothing_is_known_of_a_new_source_and_that_is_said(world):
    world.source("etc", CopyRule("nas"))
    found = forecast(world.settings, world.catalog, NOW)
    assert found.guessed == 1 and found.dumps == 16 + 31
    assert found.of_next[0].bytes > 0


def test_an_empty_world_has_an_empty_forecast(world):
    found = forecast(world.settings, world.catalog, NOW)
    assert (found.of_this, found.of_next, found.dumps) == ((), (), 0)


def test_retention_that_is_looked_at_seldom_says_nearly_the_same(world, monkeypatch):
    world.source("etc", CopyRule("nas", keep={"daily": 7, "weekly": 4}))
    world.past(targets=("nas",))
    often = world.foresee()[1]["nas"]
    monkeypatch.setattr(forecasting, "LOOKS", 1)
    seldom = world.foresee()[1]["nas"]
    assert seldom.copies == often.copies  # at the end all is looked at
    assert often.amounts.held <= seldom.amounts.held <= often.amounts.held * 1.35


class Nights(World):
    """The same, lived: each night is planned, made, staged and pruned by the parts that do so at night."""

    CHANGE = 0.04  # of a source, each night

    def live(self, begin, until):
        """Nights from noon of a day on."""
        for now in range(begin, until, DAY):
            self._night(now + 9 * 3600 * clock.NS)

    def _night(self, moment):
        tonight = planning.Planner(self.settings, self.catalog, moment).plan(self.everyone())
        run = self.catalog.begin_run("run")
        plan_kept.begin(self.settings, tonight, run.id)
        results = []
        for number, one in enumerate(tonight.planned):
            base = self.catalog.dump(one.base) if one.base else None
            size = GB if base is None else GB * (1 - (1 - self.CHANGE) ** round((moment - base.begun_ns) / DAY))
            row = self.dump(moment + number * clock.NS, one.source, one.level, round(size), base=one.base)
            results.append(ResultRow(run.id, "web1", one.source, True, one.level, row.id))
        plan_kept.end(self.settings, self.catalog, tonight, results)
        wishes = wanted.Wishes(self.settings, self.catalog)
        for row in wishes.dumps:
            for target in wishes.of(row):
                if wishes.state(row, target) == "":
                    self.catalog.put_copy(CopyRow(row.id, target, "verified", {}, row.stored_size, moment, moment))
        for one in prune.look(self.settings, self.catalog, moment):
            if one.phase != prune.STAYS:
                self.catalog.put_copy(replace(one.decision.copy, state="expired", upload={}, updated_ns=moment))

    def dump(self, begun, *args, **more):
        row = super().dump(begun, *args, **more)
        blocks = places.state_folder(self.settings.state, "web1", row.source, "") / f"{row.id}.state"
        blocks.parent.mkdir(parents=True, exist_ok=True)
        blocks.touch()
        self.catalog.set_holding(row.id, None)
        return row

    def everyone(self):
        return list(self.settings.clients["web1"].sources.values())

    def held(self, when):
        """target -> mean bytes of a month, as they were."""
        stays = spending.stays_between(self.catalog, when.begin_ns, when.end_ns)
        prices = dict.fromkeys(self.settings.targets, DAILY)
        return {row.name: row for row in usage.rows(stays, {}, prices, when, "target")}


def test_what_was_foreseen_is_about_what_came(tmp_path):
    world = Nights(tmp_path)
    for name in ("etc", "www", "home"):
        world.source(name, CopyRule("nas", keep={"daily": 10, "weekly": 4}),
                     CopyRule("cloud", dumps="full", every="week", keep={"last": 3}))  # fmt: skip
    try:
        now = NOW + 10 * DAY
        world.live(NOW, now)
        _this, foreseen = world.foresee(now)
        end = usage.month("2026-12", now).end_ns
        world.live(now, end)
        came = world.held(usage.month("2026-12", end))
        for target in ("nas", "cloud"):
            assert foreseen[target].amounts.held == pytest.approx(came[target].amounts.held, rel=0.05), target
            assert foreseen[target].came == pytest.approx(came[target].came, rel=0.03), target
            assert foreseen[target].copies == pytest.approx(came[target].copies, abs=1), target
    finally:
        world.catalog.close()
