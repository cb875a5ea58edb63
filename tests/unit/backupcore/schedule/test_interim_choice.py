"""Which sources get an interim dump: only those without any full, within what the plan leaves of the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backupcore.schedule import interim
from backupcore.schedule.memory import Memory
from backupcore.schedule.planner import plan
from backupcore.schedule.records import BYTES, Base, GivenUp, Limit, Plan, Rules, Unit, View, Wish

NIGHT = 739000


def unit(name, full=100.0, priority=1, **values):
    known = {"since": NIGHT, "reachable": True, "use": {"seconds": (0.1, 0.2), "target:nas": (1.0, 1.0)}}
    return Unit(name, name.partition(":")[0], Wish(priority=priority), full=full, **{**known, **values})


def planned(units, limits=None, nights=3):
    view = View(NIGHT, 0, tuple(units), limits or {}, rules=Rules(first_nights=nights))
    return view, plan(view, Memory())


def test_who_waits_gets_one_and_who_does_not_gets_none():
    view, made = planned([unit("a:x"), unit("b:x"), unit("c:x")])
    fulls = {one.unit for one in made.choices}
    found = interim.choose(view, made, dict.fromkeys(("a:x", "b:x", "c:x"), 5.0))
    assert len(fulls) == 1 and {one.unit for one in found} == {"a:x", "b:x", "c:x"} - fulls
    assert all(one.chosen and one.until > NIGHT and one.bytes == 5.0 for one in found)


def test_it_says_why_there_is_none():
    units = [unit(f"{name}:x") for name in "abcd"]
    view, made = planned(units, nights=4)
    (big, unknown, one), first = [found.id for found, _until in interim.waiting(view, made)], made.choices[0].unit
    found = {each.unit: each for each in interim.choose(view, made, {big: 51.0, one: 5.0, first: 1.0})}
    assert found[one].chosen and first not in found
    assert not found[big].chosen and "more than half" in found[big].why
    assert not found[unknown].chosen and "not known" in found[unknown].why


def test_all_of_them_are_no_flood_and_the_most_important_ones_go_first():
    units = [unit(f"c{number}:x", priority=2 if number == 9 else 1) for number in range(10)]
    view, made = planned(units, nights=10)
    waiting = [one.id for one, _until in interim.waiting(view, made)]
    found = interim.choose(view, made, {name: 20.0 + len(name) for name in waiting})
    taken = [one for one in found if one.chosen]
    most = max(one.load[BYTES] for one in made.outlook) / 2
    assert most - 24.0 < sum(one.bytes for one in taken) <= most and 0 < len(taken) < len(waiting)
    assert all("larger than the nights to come" in one.why for one in found[len(taken) :])
    given = tuple(GivenUp(one.id, "first", "") for one in units)
    found = interim.choose(view, Plan(NIGHT, (), given, (), made.outlook), {one.id: 50.0 for one in units})
    assert [one.unit for one in found if one.chosen][0] == "c9:x"


def test_a_source_with_any_full_gets_none_not_even_when_that_is_broken():
    units = (
        unit("a:x", broken="it is damaged"), unit("b:x", last_full=NIGHT - 9), unit("d:x", reachable=False),
        unit("c:x", bases=(Base(0, NIGHT - 1, 1),)),
    )  # fmt: skip
    given = tuple(GivenUp(one.id, "first", "") for one in units)
    view = View(NIGHT, 0, units)
    assert interim.waiting(view, Plan(NIGHT, (), given, (), ())) == ()


SIZES = st.floats(0, 1000)
UNITS = st.lists(
    st.tuples(SIZES, SIZES, st.sampled_from((0, 1, 2)), st.booleans(), st.booleans(), st.booleans()), max_size=12
)  # fmt: skip
LIMITS = st.dictionaries(
    st.sampled_from((BYTES, "seconds", "holding", "target:nas")), st.builds(Limit, st.floats(0, 3000), st.booleans())
)  # fmt: skip


@given(UNITS, LIMITS, st.integers(1, 7), st.data())
def test_no_limit_is_exceeded_by_it_and_nobody_with_a_full_is_chosen(shapes, limits, nights, data):
    units, recent = [], {}
    for number, (full, part, priority, full_there, reachable, known) in enumerate(shapes):
        there = {"bases": (Base(0, NIGHT - 2, 1),), "last_full": NIGHT - 2, "levels": {1: full / 10}}
        more = there if full_there else {}
        one = unit(f"c{number}:x", full, priority, reachable=reachable, **more)
        units.append(one)
        if known:
            recent[one.id] = part
    view, made = planned(units, limits, nights)
    found = interim.choose(view, made, recent)
    chosen = [one for one in found if one.chosen]
    by_id = {one.id: one for one in units}
    dumped = {one.unit for one in made.choices}
    for one in chosen:
        assert by_id[one.unit].last_full is None and by_id[one.unit].reachable and one.unit not in dumped
        assert recent[one.unit] <= by_id[one.unit].full / 2
    for name, limit in limits.items():
        def use(unit_id, level, name=name):
            return 1.0 if name == BYTES else by_id[unit_id].use.get(name, (0.0, 0.0))[level]

        sizes = [max(one.bytes, by_id[one.unit].full if one.level == 0 else 0.0) for one in made.choices]
        planned_load = sum(size * use(one.unit, one.level > 0) for size, one in zip(sizes, made.choices))
        besides = sum(one.bytes * use(one.unit, 1) for one in chosen)
        assert not besides or planned_load + besides <= limit.amount * (1 + 1e-9)
    assert interim.choose(view, made, recent) == found
    assert len({one.unit for one in found}) == len(found)
    if data.draw(st.booleans()):
        assert not any(one.chosen for one in interim.choose(view, made, {}))
