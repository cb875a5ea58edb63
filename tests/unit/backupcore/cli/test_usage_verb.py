"""`stowage usage` from the command line: a month, what comes, and what another configuration would change."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from backupcore.hookspecs import Spent
from stage_world import World

from backupcore import clock
from backupcore.catalog import spending
from backupcore.settings import CopyRule

CONFIG = """\
state: {base}/state
keys: {{folder: {base}/keys}}
holding: [{{path: {base}/holding, use: 1 GB}}]
targets:
  nas: {{type: directory, path: {base}/nas}}
  cloud: {{type: directory, path: {base}/cloud, price: dear}}
  euro: {{type: directory, path: {base}/euro, price: {{currency: EUR, storage_gb: 1000}}}}
prices:
  dear: {{currency: $, storage_gb: 1000000, write_1000: 5, request_1000: 1, read_gb: 100}}
policies:
  standard: {{copies: [{{target: nas, keep: {{last: 2}}}}, {{target: cloud}}]}}
clients:
  web1: {{sources: {{etc: /etc}}}}
  web2: {{sources: {{etc: /etc}}}}
"""
DAY = 86400 * clock.NS
NOW = int(datetime(2026, 11, 16, tzinfo=timezone.utc).timestamp()) * clock.NS  # the middle of a month


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "now_ns", lambda: NOW)
    world = World(tmp_path)
    (tmp_path / "stowage.yml").write_text(CONFIG.format(base=tmp_path))
    (tmp_path / "cloud").mkdir()
    world.policy(CopyRule("nas"), CopyRule("disk"))
    world.rows = [world.dump(client) for client in ("web1", "web1", "web2")]
    for number, row in enumerate(world.rows):
        for target in ("nas", "cloud"):
            came = NOW - 10 * DAY + number
            world.catalog.put_copy(copy_row(row, target, came))
        world.catalog.set_holding(row.id, None)
    spending.add_spent(world.catalog, "cloud", Spent(write=3000, read=500, got=10**9), "2026-11")
    spending.add_spent(world.catalog, "cloud", Spent(write=7), "2026-10")
    world.catalog.close()
    return world


def copy_row(row, target, came):
    from backupcore.catalog.records import CopyRow

    files = {f"f{number}": "1000 ab" for number in range(9)}
    return CopyRow(row.id, target, "done", {"files": files}, row.stored_size, came, came)


@pytest.fixture
def answer(stowage):
    def answer(*words):
        status, out, _err = stowage("usage", "--json", *words)
        assert status == 0, out
        return json.loads(out)

    return answer


def test_a_month_by_target(world, stowage, answer):
    status, out, err = stowage("usage")
    assert (status, err) == (0, "")
    head, first, second, *rest = out.splitlines()
    assert (first.split()[0], second.split()[0]) == ("cloud", "nas")
    assert "3,000 / 500" in first and second.split()[-1] == "-"
    assert any("nas: no price is known" in line for line in rest)
    size = sum(row.stored_size for row in world.rows)
    found = answer()
    cloud, nas = found["rows"]
    assert (found["month"], found["so_far"], found["unpriced"]) == ("2026-11", True, ["nas"])
    assert (cloud["bytes"], cloud["objects"], cloud["copies"]) == (size, 27, 3)
    storage = size / 1e9 * 1e6 * 10 / 30
    assert cloud["cost"]["$"]["storage"] == pytest.approx(storage, rel=1e-4)
    assert cloud["cost"]["$"]["requests"] == 15.5 and cloud["cost"]["$"]["read"] == 100
    assert found["total"] == {"$": pytest.approx(storage + 115.5, rel=1e-4)}
    assert (nas["bytes"], nas["cost"]) == (size, {})
    assert rest[-3].startswith("OK   2026-11 so far: $")


def test_by_client_and_source_the_sums_are_the_same(answer):
    whole = answer()
    for by, names in (("client", {"web1", "web2"}), ("source", {"web1:etc", "web2:etc"})):
        found = answer("--by", by)
        assert {row["name"] for row in found["rows"]} == names
        assert found["total"]["$"] == pytest.approx(whole["total"]["$"])
        assert sum(row["requests"]["write"] for row in found["rows"]) == 3000


def test_a_month_that_is_over_and_one_without_anything(stowage, answer):
    found = answer("--month", "2026-10")
    assert [(row["name"], row["requests"]["write"], row["bytes"]) for row in found["rows"]] == [("cloud", 7, 0)]
    assert not found["so_far"] and "forecast" not in found
    status, out, _err = stowage("usage", "--month", "2020-02")
    assert status == 0 and out.startswith("nothing lay on any target in 2020-02\n")


@pytest.mark.parametrize(
    "words",
    [("--month", "november"), ("--month", "2026-12"), ("--month", "2026-10", "--forecast"), ("--by", "day")],
)
def test_what_cannot_be_told_is_refused(stowage, words):
    status, _out, err = stowage("usage", *words)
    assert status == 2 and err


def test_names_that_came_from_elsewhere_are_shown_escaped(world, stowage):
    from backupcore.catalog.store import Catalog

    with Catalog(world.catalog.path) as catalog:
        spending.add_spent(catalog, "odd\x1b[31m", Spent(write=1), "2026-11")
    out = stowage("usage")[1]
    assert "\x1b" not in out and "is no longer in the configuration" in out


def test_what_comes_is_foreseen(stowage, answer):
    status, out, _err = stowage("usage", "--forecast")
    assert status == 0 and "end of 2026-12" in out and "2026-12 is expected to cost $" in out
    found = answer("--forecast")["forecast"]
    this, coming = ({row["name"]: row for row in found[key]["rows"]} for key in ("this", "next"))
    assert found["next"]["month"] == "2026-12" and found["dumps"] > 80  # two sources, 45 nights
    assert coming["cloud"]["bytes"] > this["cloud"]["bytes"]  # for ever
    assert coming["nas"]["copies"] < 25 < coming["cloud"]["copies"]  # last 2 and their chains, a few days' marks


def test_what_has_no_known_price_is_not_called_free(world, stowage):
    assert stowage("usage")[1].count(" and what has no known price") == 1
    file = world.root / "stowage.yml"
    file.write_text(CONFIG.format(base=world.root).replace(", price: dear", ""))
    out = stowage("usage", "--forecast")[1]
    assert "no money" not in out and out.count("what nobody knows, since no price is known") == 2


def test_the_same_configuration_costs_the_same_at_any_moment(world, stowage, monkeypatch):
    moments = iter(range(1000))
    monkeypatch.setattr(clock, "now_ns", lambda: NOW + next(moments) * 60 * clock.NS)
    tried = world.root / "same.yml"
    tried.write_text("dumps_at_once: 4\n")
    out = stowage("usage", "--what-if", str(tried))[1]
    assert "2026-12 would cost the same" in out and " less" not in out and "+" not in out


def written(folder):
    """All files but the catalog's, which is opened."""
    found = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("catalog")}
    return {path: path.stat().st_mtime_ns for path in found}


def test_another_configuration_is_tried_out_and_nothing_is_written(world, stowage, answer, tmp_path):
    before = written(tmp_path)
    snippet = tmp_path.parent / f"{tmp_path.name}.yml"
    snippet.write_text("policies: {standard: {copies: [{target: nas}, {target: euro, keep: {last: 1}}]}}\n")
    found = answer("--what-if", str(snippet))
    changes = {one["target"]: one for one in found["what_if"]["changes"]["2026-12"]}
    assert changes["cloud"]["bytes_then"] < changes["cloud"]["bytes"] and changes["cloud"]["more"]["$"] < 0
    assert changes["nas"]["bytes_then"] > changes["nas"]["bytes"] and changes["nas"]["more"] == {}
    assert changes["euro"]["bytes"] == 0 and changes["euro"]["more"]["EUR"] > 0
    this = {one["target"]: one for one in found["what_if"]["changes"]["2026-11"]}
    assert this["euro"]["bytes_then"] > 0 and found["forecast"] == answer("--forecast")["forecast"]
    assert written(tmp_path) == before
    out = stowage("usage", "--what-if", str(snippet))[1]
    told = next(line for line in out.splitlines() if "2026-12 would cost" in line)
    assert " EUR more" in told and told.split("would cost ")[1].startswith("$") and " less, " in told


def test_the_same_configuration_changes_nothing(world, answer, tmp_path):
    whole = tmp_path.parent / f"{tmp_path.name}-same.yml"
    whole.write_text((tmp_path / "stowage.yml").read_text())
    for text in (whole.read_text(), "{}\n", whole.read_text().split("clients:")[0]):
        whole.write_text(text)
        found = answer("--what-if", str(whole))
        assert {key: found["what_if"][key] for key in ("this", "next")} == {
            key: found["forecast"][key] for key in ("this", "next")
        }


@pytest.mark.parametrize(
    "text, told",
    [("policies: {standard: {copees: []}}", "copees"), ("targets: {nas: null}", "nas"), ("[", "wrong.yml:2")],
)
def test_what_is_wrong_with_it_is_told_with_its_place(stowage, tmp_path, text, told):
    file = tmp_path.parent / f"{tmp_path.name}-wrong.yml"
    file.write_text(text)
    status, _out, err = stowage("usage", "--what-if", str(file))
    assert status == 2 and told in err
    assert stowage("usage", "--what-if", str(file) + "-is-not-there")[0] == 2
