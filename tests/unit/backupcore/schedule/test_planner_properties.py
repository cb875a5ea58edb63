"""What holds for every plan, whatever the view and the memory."""

import dataclasses

import hypothesis.strategies as st
from hypothesis import given, settings

from backupcore.schedule.memory import Memory, Presence, Trace, remember
from backupcore.schedule.planner import plan
from backupcore.schedule.records import BYTES, Base, Done, Limit, Rules, Unit, View, Wish

NIGHT = 700_000
GB = 1e9


@st.composite
def wishes(draw):
    strategy = draw(st.sampled_from(["standard"] * 6 + ["full", "incremental", "skip"]))
    return Wish(
        cycle=draw(st.sampled_from([1, 2, 5, 7, 7, 7, 14, 28, 90])),
        grace=draw(st.integers(0, 4)),
        priority=draw(st.integers(0, 3)),
        strategy=strategy,
        max_level=draw(st.sampled_from([0, 1, 3, 9])),
        max_chain=draw(st.sampled_from([None, None, 1, 2, 4])),
        days=draw(st.sampled_from([frozenset(range(7))] * 4 + [frozenset({5, 6}), frozenset({0})])),
        forced=draw(st.sampled_from([None] * 8 + [0, 1, 2, 9])),
        own=draw(st.sampled_from([False] * 7 + [True])),
        own_fulls=draw(st.sampled_from([(), (NIGHT + 2, NIGHT + 9), (NIGHT,)])),
    )


@st.composite
def units(draw, number):
    reachable = draw(st.booleans()) or draw(st.booleans())
    since = NIGHT - draw(st.integers(0, 40))
    bases, last_full = [], None
    if draw(st.integers(0, 4)):
        last_full = NIGHT - draw(st.integers(1, 40))
        if draw(st.integers(0, 5)):
            night, chain, level = last_full, 1, 0
            while True:
                bases.append(Base(level, night, chain))
                if night >= NIGHT - 1 or draw(st.booleans()):
                    break
                night = draw(st.integers(night + 1, NIGHT - 1))
                level, chain = level + draw(st.integers(1, 2)), chain + 1
                if level > 9:
                    break
    full = draw(st.one_of(st.none(), st.floats(0, 50 * GB)))
    levels = {}
    if reachable and bases and draw(st.integers(0, 6)):
        size = (full or GB) * draw(st.floats(0, 1))
        for level in range(1, min(9, bases[-1].level + 1) + 1):
            levels[level] = size
            size *= draw(st.floats(0, 1))
    return Unit(
        id=f"c{number // 2}:s{number}",
        client=f"c{number // 2}",
        wish=draw(wishes()),
        since=since,
        reachable=reachable,
        full=full,
        levels=levels,
        bases=tuple(bases),
        last_full=last_full,
        broken="a test broke it" if last_full is not None and not bases else "",
        use=draw(st.sampled_from([{}, {"seconds": (1e-8, 2e-8)}, {"target:a": (1.0, 0.0), "seconds": (1e-8, 1e-8)}])),
    )


@st.composite
def limits(draw):
    out = {}
    for name, top in ((BYTES, 200 * GB), ("seconds", 2000.0), ("target:a", 100 * GB)):
        if draw(st.integers(0, 2)) == 0:
            out[name] = Limit(draw(st.floats(0, top)), draw(st.booleans()))
    return out


@st.composite
def views(draw):
    count = draw(st.integers(0, 12))
    return View(
        night=NIGHT,
        weekday=draw(st.integers(0, 6)),
        units=tuple(draw(units(number)) for number in range(count)),
        limits=draw(limits()),
        coming={NIGHT + 1: draw(limits()), NIGHT: draw(limits())} if draw(st.booleans()) else {},
        rules=Rules(draw(st.sampled_from([None, 1, 3])), draw(st.sampled_from([None, 0, 3]))),
    )


@st.composite
def memories(draw):
    night = draw(st.sampled_from([None, NIGHT - 1, NIGHT - 1, NIGHT - 4, NIGHT, NIGHT + 5]))
    traces = {}
    for number in range(draw(st.integers(0, 12))):
        traces[f"c{number // 2}:s{number}"] = Trace(
            planned=draw(st.one_of(st.none(), st.integers(NIGHT - 5, NIGHT + 40))),
            rate=draw(st.floats(0, 5 * GB)),
            nights=draw(st.integers(0, 9)),
            full=draw(st.one_of(st.none(), st.floats(0, 50 * GB))),
            doubt=draw(st.floats(0, 1)),
            missed=draw(st.one_of(st.none(), st.integers(NIGHT - 20, NIGHT - 1))),
            back=draw(st.one_of(st.none(), st.integers(NIGHT - 10, NIGHT))),
            why=draw(st.sampled_from(["", "client", "server", "failed", "cycle"])),
            cycle=draw(st.sampled_from([0, 7, 14])),
        )
    clients = {f"c{number}": Presence().saw(number, bool(number % 2)) for number in range(draw(st.integers(0, 6)))}
    return Memory(night=night, units=traces, clients=clients, error=draw(st.sampled_from([0.0, 0.0133])), measured=3)


def _estimate(unit, level):
    return unit.full if level == 0 else unit.levels.get(level)


@settings(max_examples=120, deadline=None)
@given(views(), memories())
def test_a_plan_is_legal(view, memory):
    made = plan(view, memory)
    units = {unit.id: unit for unit in view.units}
    assert len({choice.unit for choice in made.choices}) == len(made.choices)
    for choice in made.choices:
        unit = units[choice.unit]
        assert unit.reachable and unit.wish.strategy != "skip"
        assert choice.reason and choice.bytes >= 0
        if choice.level:
            below = [base for base in unit.bases if base.level < choice.level]
            assert below, "a chain without a base"
            if unit.wish.forced is None:
                assert choice.level <= unit.wish.max_level
                assert unit.wish.max_chain is None or below[-1].chain < unit.wish.max_chain
                assert unit.wish.strategy != "full"
        if len(unit.wish.days) < 7 and unit.wish.forced is None:
            assert view.weekday in unit.wish.days
    assert set(made.absent) == {unit.id for unit in view.units if not unit.reachable}
    assert [one.night for one in made.outlook] == list(range(NIGHT, NIGHT + len(made.outlook)))
    assert not {one.unit for one in made.given_up} - set(units)


@settings(max_examples=120, deadline=None)
@given(views(), memories())
def test_a_hard_limit_is_never_exceeded(view, memory):
    made = plan(view, memory)
    units = {unit.id: unit for unit in view.units}
    for name, limit in {**view.limits, **view.coming.get(NIGHT, {})}.items():
        if not limit.hard:
            continue
        expected = said = 0.0
        for choice in made.choices:
            unit = units[choice.unit]
            use = (1.0, 1.0) if name == BYTES else unit.use.get(name, (0.0, 0.0))
            share = use[0 if choice.level == 0 else 1]
            said += choice.bytes * share
            told = _estimate(unit, choice.level)
            expected += (choice.bytes if told is None else told) * share
        assert said <= limit.amount * (1 + 1e-9) + 1e-3
        if memory.error == 0:  # else real dumps may have told more than tonight's estimate
            assert expected <= limit.amount * (1 + 1e-9) + 1e-3


@settings(max_examples=120, deadline=None)
@given(views(), memories())
def test_who_can_be_dumped_is_dumped_or_named(view, memory):
    made = plan(view, memory)
    hard = any(limit.hard for limit in {**view.limits, **view.coming.get(NIGHT, {})}.values())
    chosen = {choice.unit for choice in made.choices}
    named = {one.unit for one in made.given_up}
    for unit in view.units:
        wish = unit.wish
        if not unit.reachable or wish.strategy == "skip" or (wish.own and wish.forced is None):
            continue
        if view.weekday not in wish.days and wish.forced is None:
            continue
        if unit.bases and not hard:
            assert unit.id in chosen
        if unit.id not in chosen:
            assert unit.id in named, "nothing tonight, and nobody is told"


@settings(max_examples=60, deadline=None)
@given(views(), memories())
def test_the_same_input_gives_the_same_plan(view, memory):
    made = plan(view, memory)
    assert made == plan(view, Memory.from_json(memory.to_json()))
    again = remember(memory, view, made, [Done(one.unit, one.level, one.bytes, True) for one in made.choices])
    assert Memory.from_json(again.to_json()) == again


@settings(max_examples=80, deadline=None)
@given(views(), memories(), st.data())
def test_who_is_there_gets_no_later_full_when_others_are_away(view, memory, data):
    """Units that are due may count on their night whoever else is there."""
    away = {unit.id for unit in view.units if data.draw(st.booleans())}
    fewer = dataclasses.replace(
        view,
        limits={},
        coming={},
        units=tuple(dataclasses.replace(unit, reachable=unit.reachable and unit.id not in away) for unit in view.units),
    )
    view = dataclasses.replace(view, limits={}, coming={})
    before = {choice.unit: choice for choice in plan(view, memory).choices}
    after = {choice.unit: choice for choice in plan(fewer, memory).choices}
    for unit in fewer.units:
        first = before.get(unit.id)
        if unit.reachable and first is not None and first.level == 0 and _must(unit, view, memory):
            assert after[unit.id].level == 0


def _must(unit, view, memory):
    """Its full is due, and no grace excuses it."""
    trace = memory.units.get(unit.id, Trace())
    excused = trace.missed is not None or (memory.night is not None and memory.night != NIGHT - 1)
    old = unit.last_full is not None and unit.bases and unit.last_full + unit.wish.cycle <= NIGHT
    return old and not excused and trace.cycle == unit.wish.cycle
