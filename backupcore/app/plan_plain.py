"""The plan of a night when the planner itself fails: a full when none is within the cycle, else changes.

A fault of Stowage in a part that only makes nights even must not cost a night. Here live the steps down: the planner
without what it remembered, then the plain rule without any planner.
"""

from __future__ import annotations

from typing import Callable, List, Optional, Tuple

from ..schedule.memory import Memory
from ..schedule.records import BYTES, Choice, Outlook, Plan, Unit, View


def plan(make: Callable[[View, Memory], Plan], view: View, memory: Memory) -> Tuple[Plan, str]:
    """The plan that make gives, and what is to be said when it gave none."""
    try:
        return make(view, memory), ""
    except Exception as error:
        said = f"the planner failed, please report it: {type(error).__name__}: {error}"[:300]
    try:
        return make(view, Memory()), f"{said}; tonight is planned without what it remembered"
    except Exception:
        return plain(view), f"{said}; tonight goes by the plain rule, and only hard limits hold"


def plain(view: View) -> Plan:
    """A full for what has none within its cycle, else level 1."""
    choices: List[Choice] = []
    for unit in view.units:
        level = _level(unit, view)
        if level is not None and unit.reachable:
            size = unit.full if level == 0 else min(unit.levels.values(), default=unit.full)
            due = None if unit.last_full is None else unit.last_full + unit.wish.cycle
            choices.append(Choice(unit.id, level, size or 0.0, "by the plain rule", due))
    absent = tuple(unit.id for unit in view.units if not unit.reachable)
    fulls = tuple(choice.unit for choice in choices if choice.level == 0)
    tonight = Outlook(view.night, {BYTES: sum(choice.bytes for choice in choices)}, fulls)
    return Plan(view.night, tuple(choices), (), absent, (tonight,))


def _level(unit: Unit, view: View) -> Optional[int]:
    wish = unit.wish
    if wish.forced is not None:
        return wish.forced
    if wish.strategy == "skip" or wish.own or view.weekday not in wish.days:
        return None
    if wish.strategy == "full" or unit.broken or not unit.bases or unit.bases[0].level or unit.last_full is None:
        return 0
    over = view.night - unit.last_full >= wish.cycle and wish.strategy != "incremental"
    return 0 if over else 1
