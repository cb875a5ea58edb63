"""The figures of stored results: the same as those that another scorer made of them."""

import json
from pathlib import Path

import pytest

from backupcore.schedule import metrics

STORED = Path(__file__).resolve().parents[3] / "data" / "schedule"
NAMES = sorted(path.stem for path in STORED.glob("*.json"))


def stored(name):
    return json.loads((STORED / f"{name}.json").read_text("utf-8"))


def result_of(scenario, nights):
    """A stored result in its long form."""
    ids = [source["id"] for source in scenario["sources"]]
    long = [
        [{"source": ids[source], "level": level, "bytes": size, "ok": bool(ok)} for source, level, size, ok in night]
        for night in nights
    ]
    return {"scenario": scenario["name"], "planner": "amanda", "plan_seconds_max": 0.0, "nights": long}


def test_there_are_stored_results():
    assert len(NAMES) >= 7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["amanda", "spoilt"])
def test_figures_are_those_of_the_other_scorer(name, kind):
    data = stored(name)
    figures = metrics.score(data["scenario"], result_of(data["scenario"], data[kind]["nights"]), data["bound"])
    figures.pop("first_errors")
    assert figures == data[kind]["figures"]


def test_a_spoilt_result_is_found_out():
    found = dict.fromkeys(("errors", "missed", "late_hard", "capacity_failures", "chain_viol", "unprotected"), 0)
    for name in NAMES:
        for key in found:
            found[key] += stored(name)["spoilt"]["figures"][key]
    assert all(found.values()), found


def small(**other):
    return {
        "format": "stowage-sched/1", "name": "small", "days": 4, "warmup": 1, "cycle": 2, "grace": 1, "max_level": 9,
        "clients": [{"id": "a", "avail": "1111"}],
        "sources": [{"id": "s", "client": "a", "size": 1000, "change": 0.1}], **other,
    }  # fmt: skip


def full(source="s", ok=True, **other):
    return {"source": source, "level": 0, "bytes": 1000, "ok": ok, **other}


def level1(size=100, **other):
    return {"source": "s", "level": 1, "bytes": size, "ok": True, **other}


def test_a_perfect_small_result():
    nights = [[full()], [level1()], [full()], [level1()]]
    figures = metrics.score(small(), {"nights": nights}, bound=1000)
    assert (figures["errors"], figures["late"], figures["missed"], figures["unprotected"]) == (0, 0, 0, 0)
    assert (figures["peak_bytes"], figures["mean_bytes"], figures["peak_over_bound"]) == (1000, 400, 1.0)
    assert figures["chain_max"] == 2


def test_a_dump_that_failed_protects_nobody():
    figures = metrics.score(small(), {"nights": [[full()], [level1()], [full(ok=False)], [level1(271)]]})
    assert figures["errors"] == 0
    assert (figures["missed"], figures["late_hard"]) == (1, 2)


def test_what_cannot_be_is_counted_and_named():
    rows = [full(), full(), full("nobody"), full(part=0), level1(100)]
    figures = metrics.score(small(), {"nights": [rows, [level1(50)], [full()], []]})
    assert figures["errors"] == 5
    assert figures["first_errors"][0] == [0, "s", "away or had its turn"]


def test_a_result_that_is_too_short_misses_nights():
    assert metrics.score(small(), {"nights": [[full()]]})["missed"] == 3


def test_parts_have_bytes_levels_and_due_nights_of_their_own():
    parts = [{"share": 0.25, "change": 0.4}, {"share": 0.75, "change": 0}]
    scenario = small(
        format="stowage-sched/2", sources=[{"id": "s", "client": "a", "size": 1000, "change": 0.1, "parts": parts}]
    )

    def row(part, level, size):
        return {"source": "s", "level": level, "bytes": size, "ok": True, "part": part}

    nights = [
        [row(0, 0, 250), row(1, 0, 750)],
        [row(0, 1, 100), row(1, 0, 750)],
        [row(0, 0, 250), row(1, 1, 0)],
        [row(0, 1, 100), row(1, 0, 750)],
    ]
    figures = metrics.score(scenario, {"nights": nights})
    assert (figures["errors"], figures["late"], figures["missed"]) == (0, 0, 0)
    assert figures["peak_bytes"] == 850
    nights[3] = [row(0, 1, 100)]
    figures = metrics.score(scenario, {"nights": nights})
    assert (figures["errors"], figures["late_hard"], figures["missed"]) == (0, 1, 1)
    assert metrics.score(scenario, {"nights": [[{"source": "s", "level": 0, "bytes": 1000, "ok": True}], [], [], []]})[
        "errors"
    ]


def test_percentile_interpolates():
    assert metrics.percentile([1.0, 2.0, 3.0], 95) == pytest.approx(2.9)
    assert metrics.percentile([7.0], 95) == 7.0
