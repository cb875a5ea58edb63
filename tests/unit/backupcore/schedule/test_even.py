"""Levels that are chosen together, and forecasts that hold."""

import random

import pytest

from backupcore.schedule import even, planner, scenario, simulate
from backupcore.schedule.metrics import loads
from backupcore.schedule.records import BYTES


def _fleet(seed, count=30, cycle=28, chain=4, days=112):
    dice = random.Random(seed)
    sources = [
        {
            "id": f"s{number}",
            "client": f"c{number}",
            "size": round(dice.lognormvariate(23, 0.7)),
            "change": round(dice.uniform(0.002, 0.03), 5),
        }
        for number in range(count)
    ]
    return scenario.check(
        {
            "format": "stowage-sched/1",
            "name": "even",
            "days": days,
            "warmup": 56,
            "cycle": cycle,
            "grace": 3,
            "max_level": 9,
            "max_chain": chain,
            "clients": [{"id": f"c{number}", "avail": "1" * days} for number in range(count)],
            "sources": sources,
        }
    )


def _replay(given, look=None):
    """The loads after the warm-up, and the plan of each night."""
    driver, plans = simulate.planner("stowage"), {}

    def plan(view, memory):
        made = plans[view.night] = driver.plan(view, memory)
        if look:
            look(view, made)
        return made

    result = simulate.replay(given, simulate.Planner(plan, driver.remember, driver.start))
    return loads(given, result)[given["warmup"] :], plans


def test_levels_chosen_together_make_nights_even_and_cost_next_to_nothing(monkeypatch):
    given = _fleet(1)
    together, _ = _replay(given)
    monkeypatch.setattr(planner.even, "levels", lambda *_: None)
    alone, _ = _replay(given)
    assert max(together) < 0.97 * max(alone)
    assert sum(together) < 1.01 * sum(alone)


@pytest.mark.parametrize("chain", [4, None])
def test_the_forecast_of_the_coming_nights_is_not_off_to_one_side(chain):
    given = _fleet(2, chain=chain)
    warmup, (load, plans) = given["warmup"], _replay(given)
    mean = sum(load) / len(load)
    for ahead in (1, 3, 7):
        off = [
            load[night + ahead - warmup] - plans[night].outlook[ahead].load[BYTES]
            for night in range(warmup, given["days"] - ahead)
        ]
        assert abs(sum(off)) / len(off) < 0.01 * mean


def test_a_level_is_another_than_the_best_by_itself_only_where_that_gains(monkeypatch):
    """Levels do not flap: each change takes more from nights that stand out than it costs until the next full."""
    inner, nights, changed = even.levels, [], []

    def watch(horizon, items, load):
        before, alone = list(load), {item.id: item.rung for item in items}
        inner(horizon, items, load)
        now = [item for item in items if item.rung != alone[item.id]]
        paid = sum(load) - sum(before)
        least = sum(even._GAIN * item.rate for item in now)
        if now:
            gained = sum(even.cost(a, horizon.floor) - even.cost(b, horizon.floor) for a, b in zip(before, load))
            assert gained - even.PRICE * paid >= least * (1 - 1e-6)
        else:
            assert load == before
        changed.append(len(now))
        nights.append(len([item for item in items if len(item.rungs) > 1]))

    monkeypatch.setattr(planner.even, "levels", watch)
    _replay(_fleet(3))
    assert 0 < sum(changed) < 0.2 * sum(nights)


def test_where_nights_are_even_another_level_is_taken_only_if_it_is_cheaper_in_the_long_run(monkeypatch):
    """The night of the next full may have moved since the level was chosen."""
    inner, seen = even.levels, []

    def level(horizon, items, load):
        before = {item.id: item.rung for item in items}
        flat = [0.9 * horizon.floor] * len(load)
        inner(horizon, items, flat)
        changed = [item for item in items if item.rung != before[item.id]]
        saved = 0.9 * horizon.floor * len(load) - sum(flat)
        assert even.PRICE * saved >= sum(even._GAIN * item.rate for item in changed) - 1e-6 * horizon.floor
        seen.append((len(changed), len(items)))

    monkeypatch.setattr(planner.even, "levels", level)
    _replay(_fleet(4, days=70))
    assert sum(count for _, count in seen) > 500
    assert sum(count for count, _ in seen) < 0.05 * sum(count for _, count in seen)


def test_levels_leave_the_night_of_a_giant_alone(monkeypatch):
    """Its full is the highest night whatever the others do: they pay nothing to make it a little lower."""
    given = _fleet(5)
    given["sources"][0]["size"] = 10 * sum(one["size"] for one in given["sources"])
    together, _ = _replay(given)
    monkeypatch.setattr(planner.even, "levels", lambda *_: None)
    alone, _ = _replay(given)
    assert max(together) <= 1.0001 * max(alone)
    assert sum(together) <= 1.001 * sum(alone)


@pytest.mark.parametrize("add", [41, 42, 43])
def test_a_large_new_source_finds_room_where_most_nights_have_a_large_one(add):
    """It goes where the small ones of that night find room on the others."""
    given = _fleet(6, count=84, cycle=7, chain=None, days=63)
    for number, source in enumerate(given["sources"]):
        source["size"] = round((3e10 if number < 5 else 1e9) * (1 + number % 5 / 50))
    given["clients"].append({"id": "new", "avail": "1" * 63})
    given["sources"].append(dict(given["sources"][7], id="new", client="new", size=32 * 10**9, add=add))
    given = scenario.check({**given, "warmup": 21})
    after = _replay(given)[0][add - 21 : add - 14]
    assert max(after) <= 1.05 * sum(after) / 7
