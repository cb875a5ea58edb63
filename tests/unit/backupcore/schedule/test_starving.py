"""Tight limits that last: what waits is taken in the end, and what can never be is said to be."""

from __future__ import annotations

import random

import pytest
from test_planner_life import GB, Fleet

from backupcore.schedule.records import BYTES, Limit, Wish


def _gaps(fleet, nights):
    """Nights between the fulls of the last source."""
    name = list(fleet.wishes)[-1]
    made = []
    for _ in range(nights):
        night = fleet.night
        if any(one.unit == name and one.level == 0 for one in fleet.run().choices):
            made.append(night)
    return [b - a for a, b in zip(made, [*made[1:], fleet.night])]


@pytest.mark.parametrize("limit", [3.2, 3.4, 3.6])
@pytest.mark.parametrize("priority", [0, 1])
def test_a_source_of_low_priority_does_not_starve_under_a_hard_limit(limit, priority):
    fleet = Fleet(21, size=1 * GB, change=0.02, cycle=7)
    last = list(fleet.wishes)[-1]
    fleet.sizes[last] = 1.5 * GB
    fleet.wishes[last] = Wish(cycle=7, priority=priority)
    fleet.limits = {BYTES: Limit(limit * GB)}
    gaps = _gaps(fleet, 120)
    # each cycle it is late raises it by one step of priority
    assert max(gaps) <= 4 * 7


def test_a_full_above_every_nights_limit_is_planned_for_no_night():
    fleet = Fleet(2, size=1 * GB, cycle=7)
    fleet.sizes["c1:s"] = 5 * GB
    fleet.limits = {BYTES: Limit(2 * GB)}
    for _ in range(10):
        made = fleet.run()
    (given,) = [one for one in made.given_up if one.unit == "c1:s" and one.what == "first"]
    assert given.until is None and "alone takes more bytes" in given.why


def test_clients_here_on_two_nights_of_five_get_their_fulls_early_or_soon():
    fleet = Fleet(50, size=2 * GB, change=0.02, cycle=7)
    laptops = list(fleet.wishes)[20:]
    rng = random.Random(7)
    last, gaps = {}, []
    for n in range(240):
        night = fleet.night
        made = fleet.run(away={name for name in laptops if rng.random() >= 0.4})
        for one in made.choices:
            if one.level == 0 and one.unit in laptops:
                if n > 60:
                    gaps.append(night - last[one.unit])
                last[one.unit] = night
    # a full on its due night or the first night after it that the client is here would be 8.5 on average
    assert sum(gaps) / len(gaps) <= 7.7
    assert sum(gap <= 7 for gap in gaps) >= 0.6 * len(gaps)
