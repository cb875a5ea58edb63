"""The measures of the scheduler: seeds that stay what they are, goals that can be missed, a bound that bounds."""

import hashlib
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from backupcore.schedule import metrics, scenario, simulate

BENCH = Path(__file__).resolve().parents[3] / "bench" / "schedule"


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in ("families", "goals", "table", "plots", "bound", "page"):
            del sys.modules[name]


# sha256 of the scenario as JSON with sorted keys: of seed 1
DIGESTS = {
    "n100c7": "c1069003fec4",
    "n100c28": "1337afeb5252",
    "n20c7": "5df3f7b1619b",
    "sme10c7": "b063b5dde3a7",
    "sme10c14": "e7d5d89a0c86",
    "big2x": "8cb65096d20a",
    "big4x": "86200eced345",
    "avail70": "5fb472532079",
    "laptop40": "e90ed06a70b5",
    "outage3": "f3189e2b6ef2",
    "outage3g7": "f41884dff1e6",
    "hetero300": "748dd03febfe",
    "weekly": "cdf0ce1afb77",
    "growth": "3c0a37d135b0",
    "add50": "da1095dd4644",
    "churn": "87b35dc8dcc9",
    "db100": "abea59a0b3a5",
    "cap12": "d830e3b62a60",
    "cap12grow": "b2d513a204d8",
    "chain3": "1722c5b2cea7",
    "chain4c28": "3c883d807878",
    "sme10c7+parts": "9f0a8a71da24",
    "sme10c14+parts": "a0e8b1461a62",
    "n20c7+parts": "c2566615c6f6",
    "big2x+parts": "c42e6ba61270",
    "big4x+parts": "00f582e3a8b0",
}


def test_a_seed_gives_the_same_scenario_for_ever():
    import families

    made = {}
    for name in families.FAMILIES:
        one = scenario.check(families.generate(name, 1))
        made[name] = one
        if name in families.SPLIT:
            made[name + "+parts"] = scenario.check(families.split(one))
    assert set(made) == set(DIGESTS)
    for name, one in made.items():
        digest = hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()
        assert digest.startswith(DIGESTS[name]), name


@pytest.mark.parametrize("family", ["sme10c7", "n20c7", "big4x"])
def test_no_part_is_larger_than_it_may_and_nothing_is_lost(family):
    import families

    whole = families.generate(family, 3)
    cut = families.split(whole)
    highest = families.LARGEST_PART * sum(source["size"] for source in whole["sources"]) / whole["cycle"]
    parted = 0
    for source, same in zip(cut["sources"], whole["sources"]):
        assert source["size"] == same["size"]
        parts = source.get("parts", [{"share": 1, "change": source["change"]}])
        parted += len(parts) > 1
        assert max(part["share"] for part in parts) * source["size"] <= highest
        assert sum(part["share"] * part["change"] for part in parts) == pytest.approx(source["change"], rel=1e-2)
    assert parted


def test_goals_can_be_missed():
    import goals

    row = {"peak_over_bound": 1.01, "extra_full": 0.0, "late_hard": 0, "plan_s": 0.1}
    assert all(one["ok"] for one in goals.judge("n100c7", [row, row]))
    worse = [row, dict(row, peak_over_bound=1.031)]
    assert [one["figure"] for one in goals.judge("n100c7", worse) if not one["ok"]] == ["peak_over_bound"]
    late = goals.judge("n100c7", [dict(row, late_hard=1), row, row])
    assert [one["figure"] for one in late if not one["ok"]] == ["late_hard"]
    slow = goals.judge("n100c7", [row, dict(row, plan_s=2.1)])
    assert [one["figure"] for one in slow if not one["ok"]] == ["plan_s"]


def test_every_family_has_a_goal_for_its_peak():
    import goals
    import table

    peaks = ("peak_over_bound", "peak_over_online", "peak_over_mean", "peak_over_lp")
    for name in table.EVERY:
        assert [goal for goal in goals.GOALS if name in goal.families and goal.figure in peaks], name


def test_a_picture_is_xml_and_names_its_lines():
    import plots

    lines = [plots.Line("ours & theirs", "#000", [1e9, 2e9, 1e9]), plots.Line("other", "#111", [5e9, 1e9, 1e9])]
    tree = ET.fromstring(plots.draw("<nights>", lines, 1.5e9, first=14))
    texts = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<nights>", "ours & theirs", "other", "bound", "5 GB", "14"} <= set(texts)


def test_seeds_are_read():
    import table

    assert table.seeds_of("11-13,2") == [11, 12, 13, 2]


@pytest.fixture
def small():
    import families

    made = families.generate("sme10c7", 5)
    made.update(days=35, warmup=14)
    for client in made["clients"]:
        client["avail"] = client["avail"][:35]
    return made


@pytest.mark.slow  # make test does not install scipy
def test_no_planner_gets_below_the_bound(small):
    import bound
    import families

    whole = bound.bound(small)
    assert whole["bound"] == whole["big"] > 1.2 * whole["lp"] > 0
    peak = metrics.score(small, simulate.replay(small, "amanda"))["peak_bytes"]
    assert peak >= whole["bound"]
    cut = families.split(small)
    parts = bound.bound(cut)
    assert parts["lp"] == pytest.approx(whole["lp"], rel=0.02)
    assert whole["lp"] * 0.98 <= parts["bound"] <= metrics.score(cut, simulate.replay(cut, "amanda"))["peak_bytes"]


@pytest.mark.slow  # make test does not install scipy
def test_the_bound_of_equal_sources_is_their_even_load(small):
    import bound

    small["sources"] = [dict(source, size=7_000_000, change=0.1, overhead=0) for source in small["sources"][:7]]
    # a night: one full, and of the six others the tenth that changed
    assert bound.bound(small)["lp"] == pytest.approx(7_000_000 + 6 * 700_000, rel=1e-6)


@pytest.mark.slow  # make test does not install scipy
def test_the_bound_of_flaky_clients_counts_their_grace(small):
    import bound

    small["sources"] = small["sources"][:4]
    always = bound.bound(small)["lp"]
    for client in small["clients"]:
        client["avail"] = "10" * 17 + "1"
    assert 0 < bound.bound(small)["lp"] != always
