"""The last line of a report: what drills have proven."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupcore import clock
from backupcore import settings as s
from backupcore.catalog import drills
from backupcore.catalog.store import Catalog
from backupcore.report import night, proven
from backupcore.report import text as report_text

NOW = clock.now_ns()
DAY = 86400 * 10**9


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """The time at which the test begins, not at which its file was read."""
    monkeypatch.setitem(globals(), "NOW", clock.now_ns())


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "catalog.sqlite") as catalog:
        yield catalog


def settings(*names, **more):
    of = s.Policy("p")
    clients = {name: s.Client(name, {"etc": s.Source(name, "etc", "tree", of, {})}, **more) for name in names}
    return s.Settings(Path("/c"), Path("/s"), Path("/k"), (), 7.0, {}, {}, clients)


def drilled(catalog, days_ago, *results, **summary):
    when = NOW - round(days_ago * DAY)
    run = catalog.begin_run("drill", when)
    why = "frame 3 is damaged"
    rows = [
        drills.Drilled(client, "etc", "files", "cloud", "client", status, when_ns=when, message=why)
        for client, status in results
    ]
    catalog.end_run(run.id, "OK", {"results": [one.as_dict() for one in rows], **summary})


def read(catalog, *names):
    return proven.read(settings(*names), catalog, NOW)


def test_clients_count_for_thirty_days_and_once(catalog):
    drilled(catalog, 40, ("a", drills.PROVEN), ("b", drills.PROVEN))
    drilled(catalog, 20, ("a", drills.PROVEN))
    drilled(catalog, 1, ("a", drills.PROVEN), ("c", drills.UNPROVEN), ("gone", drills.PROVEN))
    assert read(catalog, "a", "b", "c").line == "proven: 1 of 3 clients restored within 30 days"


def test_the_longest_estimate_is_told_with_its_money(catalog):
    older = {"db2": {"seconds": 99999.0, "places": ["cloud"], "money": {}}}
    drilled(catalog, 2, ("db2", drills.PROVEN), estimates=older)
    drilled(catalog, 1, ("db2", drills.PROVEN), estimates={
        "db2": {"seconds": 6600.0, "places": ["cloud"], "money": {"$": 3.1}},
        "web1": {"seconds": 60.0, "places": ["nas"], "money": {}},
        "new": {"seconds": None, "places": ["nas"], "money": {}},
        "gone": {"seconds": 10**9, "places": ["nas"], "money": {}},
    })  # fmt: skip
    line = read(catalog, "db2", "web1", "new").line
    assert line == "proven: 1 of 3 clients restored within 30 days; db2 est. 1 h 50 from cloud, $3.10"


def test_money_is_written_as_its_currency_wants():
    assert proven.money(3.1, "$") == "$3.10" and proven.money(3.1, "EUR") == "3.10 EUR"
    assert proven.money(0.0001, "$") == "< $0.01" and proven.money(0.0, "€") == "€0.00"
    assert proven.money(12345.678, "$") == "$12,345.68"


def test_a_failure_stays_until_the_same_source_comes_back(catalog):
    drilled(catalog, 3, ("a", drills.FAILED))
    drilled(catalog, 2, ("a", drills.UNPROVEN))
    drilled(catalog, 1, ("a", drills.SEALED))
    (told,) = proven.trouble(read(catalog, "a"))
    assert told.startswith("a:etc drill from cloud of ") and told.endswith("-> stowage drill --client a")
    assert "frame 3 is damaged" in told
    assert proven.trouble(read(catalog, "b")) == []  # a client that is gone
    drilled(catalog, 0.5, ("a", drills.PROVEN))
    assert proven.trouble(read(catalog, "a")) == []


def test_sealed_clients_are_named_and_not_proven(catalog):
    drilled(catalog, 1, ("a", drills.SEALED), ("b", drills.SEALED))
    drilled(catalog, 0.5, ("b", drills.PROVEN))
    assert read(catalog, "a", "b").line.startswith(
        "proven: 1 of 2 clients restored within 30 days (1 sealed, no private key here)"
    )


def test_retired_clients_and_a_house_without_clients_say_nothing(catalog):
    drilled(catalog, 1, ("a", drills.PROVEN))
    assert proven.read(settings("a", state="retired"), catalog, NOW).line == ""


def test_a_failed_drill_is_a_failed_report_and_the_line_is_its_last(catalog):
    drilled(catalog, 1, ("a", drills.FAILED))
    report = night.make(settings("a"), catalog, NOW)
    assert report.status == "FAIL" and "drill from cloud" in report.headline
    lines = report_text.render(report).splitlines()
    assert lines[-1] == "proven: 0 of 1 client restored within 30 days"
    assert any("frame 3 is damaged" in line for line in lines[1:-1])
    assert night.make(settings("a"), catalog, NOW, only=[("a", "etc")]).proven is None


@pytest.mark.parametrize("summary", [
    {}, {"results": None}, {"results": 3}, {"results": [None, 3, "x", {}, {"client": 3}]}, {"estimates": [1]},
    {"results": [{"client": "a", "source": "etc", "status": "proven", "files": "many"}]},
    {"estimates": {"a": None, "b": {"seconds": "long"}}},
])  # fmt: skip
def test_a_summary_of_another_version_is_no_error(catalog, summary):
    run = catalog.begin_run("drill", NOW - DAY)
    catalog.end_run(run.id, "OK", summary)
    assert read(catalog, "a", "b").line == "proven: 0 of 2 clients restored within 30 days"


def test_what_a_newer_version_adds_is_passed_over(catalog):
    run = catalog.begin_run("drill", NOW - DAY)
    catalog.end_run(run.id, "OK", {"results": [{"client": "a", "source": "e", "status": "proven", "colour": "red"}]})
    assert read(catalog, "a").proven == 1


def test_a_night_is_due_a_night_after_the_first_run_and_after_the_last_drill(catalog):
    assert not drills.due(catalog, NOW)
    first = catalog.begin_run("run", NOW - DAY // 2)
    assert not drills.due(catalog, NOW)
    assert drills.due(catalog, NOW + DAY // 2)
    assert first.kind == "run"
    drilled(catalog, -0.45, ("a", drills.PROVEN))  # one that somebody asked for does not count
    assert drills.due(catalog, NOW + DAY // 2)
    drilled(catalog, -0.45, ("a", drills.PROVEN), nightly=True)
    assert not drills.due(catalog, NOW + DAY // 2)
    assert drills.due(catalog, NOW + 2 * DAY)
