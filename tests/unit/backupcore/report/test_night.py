"""The judgement of a night: from a real catalog, with times of our own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backupcore import clock, hours
from backupcore import settings as s
from backupcore.catalog.records import CopyRow, DumpRow, ResultRow
from backupcore.catalog.store import Catalog
from backupcore.report import night
from backupcore.report import text as report_text

HOUR = 3600 * 10**9
NOW = clock.now_ns()  # the catalog ends runs at the true time


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """The time at which the test begins, not at which its file was read."""
    monkeypatch.setitem(globals(), "NOW", clock.now_ns())


def policy(*targets, rpo=26.0):
    return s.Policy("standard", copies=tuple(s.CopyRule(name) for name in targets), rpo=rpo * 3600)


def client(name, *sources, presence="always", state="present", of=None):
    of = of or policy()
    return s.Client(
        name, {one: s.Source(name, one, "tree", of, {"path": "/" + one}) for one in sources},
        presence=presence, state=state,
    )  # fmt: skip


class House:
    """A catalog and settings to fill."""

    def __init__(self, tmp_path):
        self.catalog = Catalog(tmp_path / "catalog.sqlite")
        self.clients = {}
        self.targets = {}

    def add(self, *clients):
        self.clients.update({one.name: one for one in clients})

    @property
    def settings(self):
        return s.Settings(
            Path("/etc/stowage/stowage.yml"), Path("/s"), Path("/k"), (), 7.0,
            {name: s.TargetSettings(name, "directory", {}) for name in self.targets}, {}, self.clients,
        )  # fmt: skip

    def run(self, hours_ago, *results, kind="run", ended=True):
        row = self.catalog.begin_run(kind, NOW - round(hours_ago * HOUR))
        for result in results:
            self.catalog.add_result(ResultRow(row.id, **result))
        if ended:
            self.catalog.end_run(row.id, "OK")
        return self.catalog.run(row.id)

    def dump(self, name, hours_ago, *, level=0, base=None, holding="/srv/h", copies=(), damaged=False, run="run"):
        of, source = name.split(":")
        counter = self.catalog.next_counter(of, source)
        begun = NOW - round(hours_ago * HOUR)
        row = DumpRow(
            f"dump-{of}-{source}-{counter}", of, source, "", "tree", "/" + source, level, counter, begun, begun, base,
            None, run, "zstd", 10_000, 5_000_000, 10, 8, holding, "0" * 64, damaged=damaged,
        )  # fmt: skip
        self.catalog.add_dump(row)
        for target, state in dict(copies).items():
            self.catalog.put_copy(CopyRow(row.id, target, state, error="no such bucket" if state == "failed" else ""))
        return row.id

    def report(self, **more):
        return night.make(self.settings, self.catalog, NOW, **more)


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.catalog.close()


def good(name, dump=None, **more):
    of, source = name.split(":")
    return {"client": of, "source": source, "ok": True, "dump": dump, "level": 0, "seconds": 2.0, **more}


def bad(name, code, message, **more):
    of, source = name.split(":")
    return {"client": of, "source": source, "ok": False, "code": code, "message": message, **more}


def test_a_good_night_is_one_line(house):
    house.add(client("web1", "etc", "home"), client("db1", "dumps"))
    dumps = {name: house.dump(name, 9) for name in ("web1:etc", "web1:home", "db1:dumps")}
    house.run(9, *(good(name, dump) for name, dump in dumps.items()))
    report = house.report()
    assert report.status == "OK"
    assert report.headline.startswith("OK   2 clients, 3 sources within RPO; 15 MB in 9 h 0")
    assert report.warnings == 0
    assert [line.status for line in report.lines] == ["OK"] * 3


def test_what_the_policy_allows_is_named_without_a_warning(house):
    house.add(client("nb1", "etc", "home"))
    said = "no zstd library on nb1: gzip was used"
    house.run(9, good("nb1:etc", house.dump("nb1:etc", 9), message=said), good("nb1:home", house.dump("nb1:home", 9)))
    report = house.report()
    assert (report.status, report.warnings) == ("OK", 0)
    assert said in report_text.render(report)


def test_a_source_past_its_rpo_is_a_failure_with_the_reason_and_the_command(house):
    house.add(client("web1", "etc"), client("db2", "dumps"))
    house.dump("web1:etc", 9)
    house.dump("db2:dumps", 72)
    house.run(9, good("web1:etc"), bad("db2:dumps", "source-failed", "disk full on client"))
    report = house.report()
    assert report.status == "FAIL"
    assert report.headline == (
        "FAIL db2:dumps no good dump for 3 days: disk full on client -> stowage run --client db2 --source dumps"
    )
    assert report.lines[0].code == "past-rpo"


def test_a_target_that_none_of_the_newest_goes_to_is_said_so(house):
    house.targets["cloud"] = None
    house.add(client("web1", "etc", of=s.Policy("p", copies=(s.CopyRule("cloud", "full"),))))
    full = house.dump("web1:etc", 33, copies={"cloud": "verified"})
    house.run(9, good("web1:etc", house.dump("web1:etc", 9, level=1, base=full)))
    assert "cloud: no policy sends one of the newest dumps there" in report_text.render(house.report())


def test_a_dump_dated_in_the_future_gets_past_its_rpo_too(house):
    house.add(client("web1", "etc"))
    # the clock had been a year ahead and is right again: what follows is dated a second behind the last
    house.dump("web1:etc", -365 * 24, run=f"{clock.stamp(NOW - 72 * HOUR)}-aaaa")
    house.run(9)
    (line,) = house.report().lines
    assert line.code == "past-rpo" and 0 <= line.age - 72 * 3600 < 1  # runs are named by whole seconds


def test_a_failed_source_of_a_reachable_client_is_a_failure_though_within_its_rpo(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 20)
    house.run(1, bad("web1:etc", "source-failed", "read error", hint="fsck"))
    report = house.report()
    assert report.headline == "FAIL web1:etc read error -> fsck"


def test_an_absent_roaming_client_is_no_trouble_within_its_rpo(house):
    house.add(client("nb1", "home", presence="roaming"), client("web1", "etc"))
    house.dump("nb1:home", 20)
    house.dump("web1:etc", 1)
    house.run(1, good("web1:etc"), bad("nb1:home", "client-unreachable", "no route", warning=True))
    report = house.report()
    assert report.status == "OK"
    assert report.headline.endswith("; 1 client away")
    assert report.away == ("nb1",)
    assert report.warnings == 1  # --strict counts it


def test_an_absent_roaming_client_past_its_rpo_is_a_failure(house):
    house.add(client("nb1", "home", presence="roaming"))
    house.dump("nb1:home", 30)
    house.run(1, bad("nb1:home", "client-unreachable", "no route", warning=True))
    assert house.report().headline.startswith("FAIL nb1:home no good dump for 30 h 00: no route")


def test_a_roaming_client_that_was_never_seen_becomes_a_failure_too(house):
    house.add(client("nb1", "home", presence="roaming"))
    house.run(3, bad("nb1:home", "client-unreachable", "no route", warning=True))
    assert house.report().status == "OK"
    house.run(0.5, bad("nb1:home", "client-unreachable", "no route", warning=True))
    house.run(48, bad("nb1:home", "client-unreachable", "no route", warning=True))
    assert house.report().headline.startswith("FAIL nb1:home was never dumped: no route")


def test_an_absent_client_that_should_always_be_there_is_a_failure(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 20)
    house.run(1, bad("web1:etc", "client-unreachable", "web1: connection refused"))
    assert house.report().status == "FAIL"


def test_before_the_first_night_nothing_has_failed(house):
    house.add(client("web1", "etc"))
    report = house.report()
    assert report.status == "WARN"
    assert any("there was no run yet" in note for note in report.notes)
    assert report.lines[0].message == "waits for its first dump"


def test_the_latest_word_on_a_source_counts_also_when_it_was_said_by_hand(house):
    house.add(client("web1", "etc"), client("db2", "dumps"))
    house.dump("web1:etc", 9)
    house.run(9, good("web1:etc"), bad("db2:dumps", "source-failed", "disk full"))
    assert house.report().status == "FAIL"
    house.run(1, good("db2:dumps", house.dump("db2:dumps", 1)))
    assert house.report().status == "OK"


def test_a_damaged_newest_dump_is_a_failure_although_an_older_one_is_within_the_rpo(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 20)
    house.dump("web1:etc", 1, damaged=True)
    house.run(1, good("web1:etc"))
    report = house.report()
    assert report.headline.startswith("FAIL web1:etc newest dump is damaged -> stowage run")
    assert report.lines[0].age == pytest.approx(20 * 3600)


def test_a_dump_whose_base_is_damaged_is_no_good_dump(house):
    house.add(client("web1", "etc"))
    full = house.dump("web1:etc", 100, damaged=True)
    house.dump("web1:etc", 1, level=1, base=full)
    house.run(1, good("web1:etc"))
    assert house.report().lines[0].message == "newest dump cannot be restored: it has no good copy"


def test_a_dump_that_left_the_holding_disk_counts_when_a_copy_is_verified(house):
    house.targets["nas"] = 1
    house.add(client("web1", "etc", of=policy("nas")))
    house.dump("web1:etc", 1, holding=None, copies={"nas": "verified"})
    house.run(1, good("web1:etc"))
    assert house.report().status == "OK"
    house.dump("web1:etc", 0.6, holding=None, copies={"nas": "done"})  # as a rebuild finds it: whole, but not read
    assert house.report().status == "OK"
    house.dump("web1:etc", 0.5, holding=None, copies={"nas": "copying"})
    assert house.report().status == "FAIL"


def test_a_failed_copy_is_a_failure_that_names_target_and_sources(house):
    house.targets["cloud"] = 1
    house.add(client("web1", "etc", "home", of=policy("cloud")))
    for source in ("etc", "home"):
        house.dump(f"web1:{source}", 1, copies={"cloud": "failed"})
    house.run(1, good("web1:etc"), good("web1:home"))
    report = house.report()
    assert report.headline == (
        "FAIL cloud: no copy of web1:etc, web1:home: no such bucket -> stowage stage --target cloud"
    )


def test_a_copy_that_waits_is_a_warning(house):
    house.targets["cloud"] = 1
    house.add(client("web1", "etc", of=policy("cloud")))
    house.dump("web1:etc", 1)
    house.run(1, good("web1:etc"))
    report = house.report()
    assert report.status == "WARN"
    assert report.targets[0].pending == ("web1:etc",)


def test_a_copy_whose_window_is_closed_waits_and_is_no_trouble(house):
    house.targets["cloud"] = 1
    later = hours.wall(NOW + 26 * HOUR)
    rule = s.CopyRule("cloud", windows=hours.parse_windows({hours.DAYS[later.weekday()]: "any"}))
    house.add(client("web1", "etc", of=s.Policy("standard", copies=(rule,), rpo=26 * 3600.0)))
    house.dump("web1:etc", 1)
    house.run(1, good("web1:etc"))
    report = house.report()
    assert report.status == "OK" and report.targets[0].pending == ()
    assert report.targets[0].waiting == ("web1:etc",) and clock.parse_iso(report.targets[0].opens) > NOW
    day = hours.DAYS[later.weekday()].capitalize()
    assert f"copies of web1:etc wait for their window: {day} 00:00" in report_text.render(report)
    assert report.as_dict()["targets"][0]["waiting"] == ["web1:etc"]
    house.dump("web1:etc", 0.5, copies={"cloud": "failed"})
    assert house.report().status == "FAIL"  # what failed did fail


def test_a_killed_run_is_said_unless_it_is_at_work(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 1)
    house.run(1, good("web1:etc"), ended=False)
    assert "did not end" in house.report().notes[0]
    assert house.report(running=True).status == "OK"


def test_a_run_that_came_to_nothing_is_a_failure_though_all_is_within_its_rpo(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 20)
    row = house.run(1, ended=False)
    house.catalog.end_run(row.id, "FAIL", {"headline": "FAIL the disk is gone -> mount it", "stopped": True})
    report = house.report()
    assert report.headline == "FAIL the disk is gone -> mount it"
    assert "the disk is gone -> mount it" in report_text.render(report).splitlines()[3]
    house.run(0.1, good("web1:etc", house.dump("web1:etc", 0.1)))
    assert house.report().status == "OK"


def test_a_run_of_some_sources_is_judged_by_these_only(house):
    house.add(client("web1", "etc"), client("db2", "dumps"))
    house.dump("web1:etc", 1)
    house.dump("db2:dumps", 200)
    run = house.run(1, good("web1:etc"))
    report = house.report(run=run, only=[("web1", "etc")])
    assert report.status == "OK"
    assert [line.client for line in report.lines] == ["web1"]


def test_a_retired_client_is_not_missed(house):
    house.add(client("old", "etc", state="retired"), client("web1", "etc"))
    house.dump("web1:etc", 1)
    house.run(1, good("web1:etc"))
    assert house.report().status == "OK"


def test_a_client_without_sources_is_said(house):
    house.add(client("web1"), client("web2", "etc"))
    house.dump("web2:etc", 1)
    house.run(1, good("web2:etc"))
    report = house.report()
    assert report.status == "WARN"
    assert report.notes == ("web1 has no source -> add one to /etc/stowage/clients.d/web1.yml",)


def test_what_a_client_says_is_escaped(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 1)
    house.run(1, bad("web1:etc", "source-failed", "bad \x1b[31m\nname", hint="x\x07"))
    shown = report_text.render(house.report())
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "bad \\x1b[31m\\x0aname" in shown


def test_the_table_has_the_worst_first_and_folds_the_good(house):
    house.add(client("web1", "etc", "home"), client("db2", "dumps"), client("nb1", "home", presence="roaming"))
    for name in ("web1:etc", "web1:home", "nb1:home"):
        house.dump(name, 2)
    house.run(1, good("web1:etc"), good("web1:home"), bad("db2:dumps", "source-failed", "disk full"),
              bad("nb1:home", "client-unreachable", "no route", warning=True))  # fmt: skip
    lines = report_text.render(house.report()).splitlines()
    assert lines[0].startswith("FAIL db2:dumps")
    kinds = [line.split()[0] for line in lines[3:6]]
    assert kinds == ["FAIL", "WARN", "OK"]
    assert "1 client, 2 sources" in lines[5]
    everything = report_text.render(house.report(), everything=True)
    assert "web1:home" in everything


def test_the_report_of_an_earlier_run_is_of_that_night(house):
    house.add(client("web1", "etc"))
    house.dump("web1:etc", 30)
    first = house.run(30, bad("web1:etc", "source-failed", "disk full"))
    house.run(1, good("web1:etc", house.dump("web1:etc", 1)))
    assert house.report(run=first).lines[0].message == "disk full"


def test_json_of_a_report_holds_everything(house):
    import json

    house.targets["nas"] = 1
    house.add(client("web1", "etc", of=policy("nas")))
    dump = house.dump("web1:etc", 1, copies={"nas": "verified"})
    house.run(1, good("web1:etc", dump))
    data = json.loads(json.dumps(house.report().as_dict()))
    assert data["sources"][0]["dump"] == dump
    assert data["sources"][0]["bytes"] == 5_000_000
    assert data["targets"][0]["verified"] == 1
    assert data["run"]["kind"] == "run"


PLAN = {
    "night": "2026-11-23", "given_up_count": 3, "late_count": 1,
    "given_up": [
        {"client": "web1", "source": "etc", "what": "full", "until": "2026-11-24",
         "why": "tonight's limit of 1 GB is used up"},
        {"client": "web1", "source": "new", "what": "first", "why": "first fulls are spread", "until": "2026-11-25"},
        {"client": "web1", "source": "home", "what": "level", "why": "level 1 would take more", "until": None},
    ],
    "late": [{"client": "nb1", "source": "home", "nights": 2, "why": "its client is away"}],
    "estimates": {"error": 0.31, "of": 5, "notes": ["web1:etc was not estimated: no time was left"]},
    "first_fulls": {"sources": 1, "nights": 3},
}  # fmt: skip


def planned(house, plan):
    house.add(client("web1", "etc", "home", "new"))
    names = ("web1:etc", "web1:home")
    run = house.run(1, *(good(name, house.dump(name, 1)) for name in names), ended=False)
    house.catalog.end_run(run.id, "OK", {"plan": plan})
    return house.report()


def test_what_was_given_up_is_said_with_its_reason_and_the_next_step(house):
    report = planned(house, PLAN)
    note = "web1:etc its full waits until Tue 24 Nov: tonight's limit of 1 GB is used up -> stowage plan --why web1:etc"
    assert note in report.notes and report.status == "WARN"
    assert "stowage plan --why web1:etc" in report.next
    (line,) = [line for line in report.lines if line.source == "new"]
    assert line.message == "waits for its first dump, planned for Wed 25 Nov"
    shown = report_text.render(report)
    for told in ("a deeper level than the best one: level 1 would take more", "nb1:home 2 nights (its client is away)",
                 "sizes were 31% off what was expected (median of 5 dumps)", "no time was left"):  # fmt: skip
        assert told in shown
    assert report.as_dict()["plan"] == PLAN


def test_a_first_full_that_has_no_place_within_a_cycle_is_an_error(house):
    """Its plan says tomorrow each night: a full that is larger than a night's hard limit never comes."""
    house.add(client("web1", "etc", "new"))
    why = "its full alone takes more than a night's limit of 1.5 MB"
    plan = {**PLAN, "given_up": [{**PLAN["given_up"][1], "why": why}]}
    for days in (6, 3, 0):
        run = house.run(1 + 24 * days, good("web1:etc", house.dump("web1:etc", 1 + 24 * days)), ended=False)
        house.catalog.end_run(run.id, "OK", {"plan": plan})
    (line,) = [line for line in house.report().lines if line.source == "new"]
    assert line.status == "WARN"  # within a cycle, it may still get its place
    sources = house.clients["web1"].sources
    sources["new"] = replace(sources["new"], timing=s.Timing(cycle=5))
    report = house.report()
    (line,) = [line for line in report.lines if line.source == "new"]
    assert (line.status, line.code, report.status) == ("FAIL", "past-rpo", "FAIL")
    assert line.message == f"was never dumped, and waits for its first full for 6.04 days: {why}"


@pytest.mark.parametrize("plan", [
    None, "x", [], {}, {"given_up": 3}, {**PLAN, "given_up": [{}]}, {**PLAN, "late": [1]}, {**PLAN, "estimates": {}},
    {**PLAN, "given_up": [{**PLAN["given_up"][0], "until": "x"}]},
])  # fmt: skip
def test_a_plan_of_another_version_is_left_out(house, plan):
    report = planned(house, plan)
    assert report.plan is None and not [note for note in report.notes if "waits until" in note]
    report_text.render(report)


def test_many_things_given_up_are_counted(house):
    many = [{**PLAN["given_up"][0], "source": f"s{number}"} for number in range(30)]
    report = planned(house, {**PLAN, "given_up": many})
    assert sum("its full waits" in note for note in report.notes) == 10
    assert "and 20 more that did not fit -> stowage plan" in report.notes


def test_what_is_skipped_on_purpose_is_past_no_rpo(house):
    web1 = client("web1", "etc", "old")
    skipped = replace(web1.sources["old"], timing=s.Timing(strategy="skip"))
    house.add(replace(web1, sources={**web1.sources, "old": skipped}))
    house.run(1, good("web1:etc", house.dump("web1:etc", 1)))
    house.dump("web1:old", 9000)
    report = house.report()
    assert report.status == "OK" and [line.source for line in report.lines] == ["etc"]
    assert [line.source for line in house.report(only=[("web1", "old")]).lines] == ["old"]


def test_a_segment_that_waits_is_named_by_its_own_name(house):
    given = {**PLAN["given_up"][0], "segment": "s1of4-3f2a", "what": "incremental"}
    late = {**PLAN["late"][0], "segment": "s2of4-3f2a"}
    report = planned(house, {**PLAN, "given_up": [given], "late": [late]})
    note = "web1:etc/s1of4-3f2a is not dumped until Tue 24 Nov: tonight's limit of 1 GB is used up"
    assert f"{note} -> stowage plan --why web1:etc" in report.notes
    assert "nb1:home/s2of4-3f2a 2 nights" in report_text.render(report)


def test_what_staging_says_of_a_failed_copy_the_report_says_too(house):
    house.targets["cloud"] = 1
    house.add(client("web1", "etc", of=policy("cloud")))
    dump = house.dump("web1:etc", 9, copies={"cloud": "failed"})
    (row,) = house.catalog.copies(dump=dump)
    house.catalog.put_copy(replace(row, error="target cloud: the secret key is wrong -> correct it"))
    house.run(1, good("web1:etc", dump))
    assert house.report().headline == (
        "FAIL cloud: no copy of web1:etc: target cloud: the secret key is wrong -> correct it"
    )


def test_what_a_copy_waits_for_is_said(house):
    house.targets["cloud"] = 1
    house.add(client("web1", "etc", of=policy("cloud")))
    dump = house.dump("web1:etc", 9)
    house.catalog.put_copy(CopyRow(dump, "cloud", "copying", error="asleep in an archive, asked for: 3 files"))
    house.run(1, good("web1:etc", dump))
    (line,) = house.report().targets
    assert line.status == "WARN"
    assert line.message == "copies of web1:etc wait: asleep in an archive, asked for: 3 files"
