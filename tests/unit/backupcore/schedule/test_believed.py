"""Where estimates are off: what is believed of incrementals, and nights that stay even all the same."""

import random

import pytest

from backupcore.schedule import believed, metrics, simulate
from backupcore.schedule.levels import GRID, curve
from backupcore.schedule.memory import Memory, Trace, remember
from backupcore.schedule.records import Base, Choice, Done, Plan, Unit, View, Wish

ERROR = 0.0133  # variance of errors of up to 20 %
EVEN = (1.0,) * 7


@pytest.mark.parametrize("grid", range(len(GRID)))
def test_a_place_of_the_grid_is_its_curve(grid):
    assert [believed.changed(grid, age) for age in range(60)] == pytest.approx(curve(grid)[:60])


def test_between_two_places_lies_between():
    for age in (0.5, 2, 7.25, 27, 500):
        values = [believed.changed(place / 4, age) for place in range(4 * len(GRID) - 3)]
        assert values == sorted(values, reverse=True) and values[0] > 0


def test_the_saturation_is_found_through_the_errors():
    draw = random.Random(5).uniform
    truth = 3.4  # between the places of 2 and 3 %
    place = believed.UNKNOWN
    for night in range(120):
        age = 1 + night % 28
        estimate = 1e8 * believed.changed(truth, age) * draw(0.8, 1.2)
        place = believed.saturate(place, 1e8, 1e10, age, estimate)
    assert abs(place - truth) < 0.5
    assert believed.saturate(place, 0.0, 1e10, 20, 1e9) == believed.saturate(place, 1e8, 1e10, 3, 1e9) == place


def test_an_error_changes_little_and_an_event_much():
    assert believed.rung(100.0, 119.0, ERROR) == pytest.approx(103, abs=0.1)
    assert believed.rung(100.0, 81.0, ERROR) == pytest.approx(97, abs=0.1)
    assert believed.rung(100.0, 500.0, ERROR) == 500.0
    assert believed.rung(100.0, 0.0, ERROR) == 0.0
    assert believed.rung(0.0, 7.0, ERROR) == 7.0
    assert believed.doubt(ERROR) < ERROR / 4


def test_the_age_counts_the_rhythm_of_the_week():
    week = (1.4, 1.4, 1.4, 1.4, 1.4, 0.0, 0.0)
    assert believed.aged(week, 0, 1) == pytest.approx(1.4)
    assert believed.aged(week, 0, 3) == pytest.approx(1.4)  # Saturday and Sunday change nothing
    assert believed.aged(week, 3, 14) == pytest.approx(14)
    assert believed.aged(EVEN, 2, 12) == 12


def test_a_dump_tells_the_rate_better_than_an_estimate():
    bases = (Base(0, 99, 1),)
    unit = Unit("a:b", "a", Wish(), 1, True, 1e10, {1: 2e8}, bases, 99)
    before = Memory(night=99, units={"a:b": Trace(rate=1e8, nights=20, full=1e10, doubt=0.001)}, error=ERROR)
    view = View(100, 0, (unit,))
    made = Plan(100, (Choice("a:b", 1, 2e8, ""),), (), (), ())
    after = remember(before, view, made, [Done("a:b", 1, 1e8, True)])
    assert after.units["a:b"].rate == pytest.approx(1e8, rel=0.01)
    lost = remember(before, view, made, [Done("a:b", 1, 0.0, False)])
    assert lost.units["a:b"].rate > 1.05e8


def test_nights_stay_even_with_wrong_estimates():
    draw = random.Random(11).uniform
    sources = []
    for number in range(90):
        size = draw(1e9, 2e10)
        source = {"id": f"s{number}", "client": "c", "size": size, "growth": 0.0, "change": draw(0.002, 0.03)}
        sources.append({**source, "overhead": 1e5, "priority": 1})
    scenario = {
        "format": "stowage-sched/1", "name": "even", "family": "even", "seed": 1, "days": 84, "warmup": 28, "cycle": 28,
        "grace": 3, "limit": None, "max_level": 9, "max_chain": None, "outages": [],
        "clients": [{"id": "c", "avail": "1" * 84}], "sources": sources,
    }  # fmt: skip
    exact = metrics.score(scenario, simulate.replay(scenario, "stowage"))
    wrong = metrics.score(scenario, simulate.replay(scenario, "stowage", errors=0.2, seed=2))
    assert wrong["late_hard"] == wrong["missed"] == wrong["errors"] == 0
    assert wrong["peak_bytes"] <= 1.05 * exact["peak_bytes"]
    assert wrong["mean_bytes"] <= 1.01 * exact["mean_bytes"]
