"""Over many nights: absences of others make nobody later, and one's own absences cost no more than the grace.

Small scenarios through the replay of `simulate`; what holds for a single plan is in test_planner_properties.py.
"""

import hypothesis.strategies as st
from hypothesis import given, settings

from backupcore.schedule import metrics, simulate

GB = 10**9
DAYS = 24


@st.composite
def worlds(draw):
    """(scenario, the same with fewer nights on which clients are there)."""
    count = draw(st.integers(2, 5))
    share = draw(st.sampled_from([100, 100, 70, 40]))
    full = ["".join("1" if draw(st.integers(1, 100)) <= share else "0" for _ in range(DAYS)) for _ in range(count)]
    full[0] = "1" * DAYS
    steady = {0, *(number for number in range(count) if draw(st.booleans()))}
    gone = [
        "".join("0" if number not in steady and draw(st.booleans()) else one for one in line)
        for number, line in enumerate(full)
    ]
    sources = [
        {"id": f"s{number}", "client": f"c{number % count}", "size": draw(st.integers(1, 40)) * GB,
         "change": draw(st.sampled_from([0.0, 0.02, 0.2, 1.0])), "priority": draw(st.integers(0, 2)),
         "cycle": draw(st.sampled_from([1, 2, 4, 7])), "add": draw(st.sampled_from([0, 0, 0, 5]))}
        for number in range(draw(st.integers(count, 8)))
    ]  # fmt: skip
    scenario = {
        "format": "stowage-sched/1", "name": "w", "days": DAYS, "warmup": 7, "cycle": 7,
        "grace": draw(st.integers(0, 3)), "max_level": 9, "max_chain": draw(st.sampled_from([None, 2, 4])),
        "limit": None, "outages": draw(st.sampled_from([[], [], [9], [9, 10, 11]])), "sources": sources,
    }  # fmt: skip
    return [{**scenario, "clients": [{"id": f"c{number}", "avail": line} for number, line in enumerate(lines)]}
            for lines in (full, gone)]  # fmt: skip


def fulls(scenario, result):
    """source -> the nights of its fulls."""
    found = {one["id"]: [] for one in scenario["sources"]}
    for night, dumps in enumerate(result["nights"]):
        for one in dumps:
            if one["level"] == 0 and one["ok"]:
                found[one["source"]].append(night)
    return found


def late(scenario, nights, source):
    """The nights on which a source is past its cycle."""
    begin = source["add"]
    last, found = begin - 1, set()
    for night in range(begin, scenario["days"]):
        last = night if night in nights else last
        if night - last >= source["cycle"]:
            found.add(night)
    return found


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_fewer_nights_of_others_make_nobody_later(pair):
    """Who is there on the same nights is past its cycle on no other ones, wherever the planner laid its fulls."""
    more, fewer = pair
    results = [simulate.replay(one, simulate.planner("stowage")) for one in pair]
    for scenario, result in zip(pair, results):
        figures = metrics.score(scenario, result)
        assert (figures["late_hard"], figures["missed"], figures["errors"], figures["chain_viol"]) == (0, 0, 0, 0)
    before, after = (fulls(one, result) for one, result in zip(pair, results))
    there = {one["id"]: one["avail"] for one in more["clients"]}
    still = {one["id"]: one["avail"] for one in fewer["clients"]}
    for source in more["sources"]:
        client = source["client"]
        if still[client] != there[client]:
            continue
        if "0" not in there[client] and not more["outages"]:
            assert not late(fewer, after[source["id"]], source)
        if not more["outages"] and not late(more, before[source["id"]], source):
            kept = late(fewer, after[source["id"]], source)
            away = {night for night, one in enumerate(there[client]) if one == "0"}
            # past it only on and after a due night that it was away on itself
            assert not kept or min(kept) in away, (source, before, after)
