"""What a dump is worth: every level has its reason, and no incremental builds on what cannot be restored."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupcore.schedule.bases import Past, choose, stand, why_no_base
from backupcore.schedule.records import Base

TONIGHT = 739_000


def past(name, nights_ago, base=None, **values):
    return Past(name, int(name[1]), base, TONIGHT - nights_ago, **values)


def stands(history):
    return stand(history, lambda dump: dump.begun_ns, TONIGHT)


def test_the_first_dump_is_a_full():
    assert choose([]) == (0, None, "the first dump")
    assert choose([], 3)[:2] == (0, None)
    assert "level 3 was asked for" in choose([], 3)[2]
    assert stands([]).bases == () and stands([]).last_full is None and stands([]).broken == ""


def test_without_a_plan_level_1_builds_on_the_newest_full():
    history = [past("L0-a", 9), past("L0-b", 3), past("L1-c", 2, "L0-b"), past("L1-d", 1, "L0-b")]
    assert choose(history)[:2] == (1, "L0-b")


@pytest.mark.parametrize(
    "fault, word", [({"damaged": True}, "damaged"), ({"restorable": False}, "copy"), ({"has_state": False}, "state")]
)
def test_what_is_no_good_is_no_base(fault, word):
    history = [past("L0-a", 2), past("L0-b", 1, **fault)]
    level, base, reason = choose(history)
    assert (level, base) == (0, None) and word in reason and "L0-b" in reason
    found = stands(history)
    assert word in found.broken
    assert [one.id for one in found.dumps] == ["L0-a"]
    # a full without its state is a good full all the same: only nothing can build on it
    assert found.last_full == (TONIGHT - 1 if word == "state" else TONIGHT - 2)


@pytest.mark.parametrize("fault", [{"damaged": True}, {"restorable": False}])
def test_a_base_is_as_good_as_what_it_builds_on(fault):
    history = [past("L0-a", 3), past("L1-b", 2, "L0-a"), past("L2-c", 1, "L1-b")]
    assert choose(history, 3)[:2] == (3, "L2-c")
    history[1] = replace(history[1], **fault)
    assert choose(history, 3)[:2] == (3, "L0-a")
    assert "L1-b" in choose(history, 3)[2]
    assert [one.id for one in stands(history).dumps] == ["L0-a"]
    history[0] = replace(history[0], **fault)
    assert choose(history, 3)[:2] == (0, None)
    assert stands(history).dumps == () and stands(history).last_full is None


def test_state_is_asked_of_the_base_only():
    history = [past("L0-a", 3, has_state=False), past("L1-b", 2, "L0-a")]
    assert choose(history, 2)[:2] == (2, "L1-b")
    assert choose(history)[:2] == (0, None)
    found = stands(history)
    assert found.base_of(1) is None and found.base_of(2).id == "L1-b"
    assert found.bases == (Base(1, TONIGHT - 2, 2),)


def test_a_torn_chain_is_no_base():
    assert choose([past("L1-b", 2, "L0-a")])[:2] == (0, None)
    for base in ("L0-a", None, "L1-b"):
        assert choose([past("L1-b", 2, base)], 2)[:2] == (0, None)
        assert stands([past("L1-b", 2, base)]).bases == ()


def test_a_level_that_was_asked_for_builds_on_the_newest_lower_one():
    history = [past("L0-a", 30), past("L1-b", 20, "L0-a"), past("L1-c", 10, "L0-a")]
    assert choose(history, 0)[:2] == (0, None)
    assert choose(history, 1)[:2] == (1, "L0-a")
    assert choose(history, 2)[:2] == (2, "L1-c")
    with pytest.raises(ValueError):
        choose(history, 10)


def test_bases_are_the_latest_of_each_level_that_nothing_lower_followed():
    history = [past("L0-a", 9), past("L1-b", 8, "L0-a"), past("L2-c", 7, "L1-b"), past("L1-d", 6, "L0-a"),
               past("L3-e", 5, "L1-d")]  # fmt: skip
    found = stands(history)
    assert [one.id for one in found.dumps] == ["L0-a", "L1-d", "L3-e"]
    assert found.bases == (Base(0, TONIGHT - 9, 1), Base(1, TONIGHT - 6, 2), Base(3, TONIGHT - 5, 3))
    assert [found.base_of(level).id for level in (1, 2, 3, 4)] == ["L0-a", "L1-d", "L1-d", "L3-e"]


def test_a_full_from_the_future_does_not_hold_off_fulls_for_ever():
    history = [past("L0-a", -4000)]
    nights = []
    for number in range(3):
        nights.append(TONIGHT - stands(history).last_full)
        history.append(Past(f"L1-{number}", 1, "L0-a", TONIGHT + 4001 + number))
    assert nights == [0, 1, 2]


@st.composite
def histories(draw):
    found = []
    for number in range(draw(st.integers(0, 9))):
        base = draw(st.sampled_from([None, "gone", *[one.id for one in found]]))
        least = next((one.level + 1 for one in found if one.id == base), 0 if base is None else 1)
        level = draw(st.integers(min(least, 9), 9)) if base else draw(st.sampled_from([0, 0, 0, 1]))
        faults = {key: draw(st.sampled_from([good, good, good, not good]))
                  for key, good in (("damaged", False), ("restorable", True), ("has_state", True))}  # fmt: skip
        found.append(Past(f"d{number}", level, base, TONIGHT - draw(st.integers(-3, 30)), **faults))
    return found


@given(histories())
def test_bases_ascend_and_can_be_restored(history):
    found = stands(history)
    by_id = {one.id: one for one in history}
    assert all(not why_no_base(dump, by_id) for dump in found.dumps)
    levels = [one.level for one in found.bases]
    places = [history.index(dump) for dump in found.dumps]
    assert levels == sorted(set(levels)) and places == sorted(places)
    for level in range(1, 10):
        base = found.base_of(level)
        good = [one for one in history if one.level < level and not why_no_base(one, by_id)]
        # nothing newer of a lower level is left aside
        assert base == (good[-1] if good else None)
        assert choose(history, level)[1] == (base.id if base else None)
    assert all(one.night <= TONIGHT for one in found.bases)
