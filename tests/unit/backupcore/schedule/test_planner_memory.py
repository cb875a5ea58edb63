"""The planner's memory: exact text, and none of it is needed to be right."""

import dataclasses
import json

import pytest

from backupcore.schedule.memory import Memory, Presence, Trace, remember
from backupcore.schedule.observe import observe
from backupcore.schedule.planner import plan
from backupcore.schedule.records import Base, Done, Unit, View, Wish

NIGHT = 740_000
FULL = Memory(
    night=NIGHT,
    units={"a:b": Trace(NIGHT + 3, 1.5, 2, 7e9, 0.25, NIGHT - 1, None, "client", 7), "c:ü\n": Trace()},
    clients={"a": Presence().saw(3, True), "c": Presence().saw(3, False)},
    week=(1.3, 1.3, 1.3, 1.3, 1.3, 0.3, 0.2),
    weeks=9,
    error=0.0133,
    measured=44,
)


def test_text_is_exact():
    assert Memory.from_json(FULL.to_json()) == FULL
    assert Memory.from_json(Memory().to_json()) == Memory()


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "\x00", "[" * 100_000, '{"format":"stowage-planner/1"}', '{"format":"stowage-planner/2"}'],
)
def test_a_foreign_text_is_an_empty_memory(text):
    assert Memory.from_json(text) == Memory()


@pytest.mark.parametrize("key", ["night", "week", "weeks", "error", "measured", "units", "clients"])
@pytest.mark.parametrize("value", [None, "x", -1, [1], {"a:b": [1]}, float("nan"), float("inf"), 1e30, True])
def test_a_bent_text_is_harmless(key, value):
    raw = json.loads(FULL.to_json())
    raw[key] = value
    memory = Memory.from_json(json.dumps(raw))
    made = plan(_view(NIGHT, [_unit("a:b", NIGHT - 2)]), memory)
    assert [choice.unit for choice in made.choices] == ["a:b"]


def test_a_cut_text_is_an_empty_memory():
    text = FULL.to_json()
    assert all(Memory.from_json(text[:end]) == Memory() for end in range(len(text) - 1))


def test_seeing_a_night_twice_adds_nothing():
    view = _view(NIGHT, [_unit("a:b", NIGHT - 2), _unit("b:c", NIGHT - 3, reachable=False)])
    once = observe(Memory(), view)
    assert observe(once, view) == once


def test_who_is_removed_is_forgotten():
    view = _view(NIGHT + 1, [_unit("z:z", NIGHT - 2)])
    after = remember(FULL, view, plan(view, FULL), [])
    assert set(after.units) == {"z:z"} and set(after.clients) == {"z"}


def test_estimates_that_are_off_are_learnt_from_what_came():
    view = _view(NIGHT, [_unit(f"a:{n}", NIGHT - 7, full=10e9) for n in range(20)])
    made = plan(view, Memory())
    assert all(choice.level == 0 for choice in made.choices)
    after = remember(Memory(), view, made, [Done(one.unit, 0, 12e9, True) for one in made.choices])
    assert after.error == pytest.approx(0.04)
    assert after.units["a:3"].full == 12e9 and after.units["a:3"].doubt == 0
    # the next estimate moves what a real dump told but little
    unit = dataclasses.replace(_unit("a:3", NIGHT, full=10e9), levels={1: 1e8})
    seen = observe(after, _view(NIGHT + 1, [unit])).units["a:3"]
    assert 11.9e9 < seen.full < 12e9


def test_a_right_estimate_is_believed_at_once():
    view = _view(NIGHT, [_unit("a:3", NIGHT - 3, full=10e9)])
    memory = Memory(night=NIGHT - 1, units={"a:3": Trace(full=5e9, doubt=0.0, cycle=7)})
    assert observe(memory, view).units["a:3"].full == 10e9


def _view(night, units):
    return View(night=night, weekday=night % 7, units=tuple(units))


def _unit(name, last_full, reachable=True, full=1e9):
    return Unit(
        id=name,
        client=name.split(":")[0],
        wish=Wish(),
        since=NIGHT - 40,
        reachable=reachable,
        full=full,
        levels={1: 1e7} if reachable else {},
        bases=(Base(0, last_full, 1),),
        last_full=last_full,
    )
