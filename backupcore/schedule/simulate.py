"""The replay of a scenario through the very planner that runs at night.

Here lives the night watch of the simulator: it shows a planner what it may see of a night, takes its choices, lets the
model say what they weigh, and writes the result of the format stowage-sched. The figures are made by `metrics`.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .model import Bases, Model
from .records import BYTES, Choice, Done, Limit, Plan, Rules, Unit, View, Wish

PLANNERS = ("stowage", "amanda")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planner:
    """What the replay drives. start: the memory before the first night."""

    plan: Callable[[View, Any], Plan]
    remember: Callable[[Any, View, Plan, Sequence[Done]], Any]
    start: Callable[[], Any]


def planner(name: str) -> Planner:
    """One of PLANNERS."""
    if name == "stowage":
        from . import memory, planner

        return Planner(planner.plan, memory.remember, memory.Memory)
    if name == "amanda":
        from . import amanda

        return Planner(amanda.plan, amanda.remember, amanda.Memory)
    raise ValueError(f"no planner {name!r}")


def replay(
    scenario: Mapping[str, Any],
    who: Union[str, Planner],
    progress: Optional[Progress] = None,
    errors: float = 0.0,
    seed: int = 0,
    cuts: Optional[Mapping[int, float]] = None,
    rules: Optional[Rules] = None,
) -> Dict[str, Any]:
    """The result of a scenario that was checked: {scenario, planner, plan_seconds_max, nights}.

    errors: each estimate (the full and each level, anew each night) is multiplied by a number drawn evenly from
    1 - errors to 1 + errors, while the bytes counted stay true. seed: of these draws; they do not depend on what the
    planner does. cuts: nights that break off: night -> share of the choices that ran, the others fail. rules: other
    than those of the scenario. progress: is told (nights done, nights in all).
    """
    model = Model(scenario)
    bases = [Bases() for _ in model.units]
    driver = planner(who) if isinstance(who, str) else who
    memory = driver.start()
    wishes = _wishes(scenario, model)
    rules = rules or Rules(server_grace=scenario["grace"])
    nights: List[List[Dict[str, Any]]] = []
    slowest = 0.0
    for night in range(model.days):
        if model.up[night]:
            view = _view(model, bases, wishes, night, rules, _Noise(errors, seed, night))
            begun = perf_counter()
            plan = driver.plan(view, memory)
            took = perf_counter() - begun
            share = (cuts or {}).get(night, 1.0)
            rows, done = _run(model, bases, plan.choices, night, round(share * len(plan.choices)))
            nights.append(rows)
            begun = perf_counter()
            memory = driver.remember(memory, view, plan, done)
            slowest = max(slowest, took + perf_counter() - begun)
        else:
            nights.append([])
        if progress is not None:
            progress(night + 1, model.days)
    name = who if isinstance(who, str) else "other"
    return {"scenario": scenario["name"], "planner": name, "plan_seconds_max": round(slowest, 3), "nights": nights}


class _Noise:
    """How wrong the estimates of one night are."""

    def __init__(self, errors: float, seed: int, night: int):
        self.errors = errors
        self.key = f"{seed}:{night}:"

    def factors(self, unit: str) -> Optional[List[float]]:
        """For the full and levels 1 to 9."""
        if not self.errors:
            return None
        draw = random.Random(zlib.crc32((self.key + unit).encode())).uniform
        return [draw(1 - self.errors, 1 + self.errors) for _ in range(10)]


def _wishes(scenario: Mapping[str, Any], model: Model) -> List[Wish]:
    made: Dict[Tuple[int, int], Wish] = {}
    for unit in model.units:
        key = (unit.cycle, unit.priority)
        if key not in made:
            made[key] = Wish(
                cycle=unit.cycle,
                grace=scenario["grace"],
                priority=unit.priority,
                max_level=scenario["max_level"],
                max_chain=scenario.get("max_chain"),
            )
    return [made[unit.cycle, unit.priority] for unit in model.units]


def _view(
    model: Model, bases: Sequence[Bases], wishes: Sequence[Wish], night: int, rules: Rules, noise: _Noise
) -> View:
    units = []
    for number, one in enumerate(model.units):
        if not model.present(number, night):
            continue
        reachable = model.reachable(number, night)
        full, levels = None, {}
        if reachable:
            full, levels = _estimates(model, number, bases[number], wishes[number].max_level, night)
            wrong = noise.factors(one.id)
            if wrong:
                full *= wrong[0]
                levels = {level: size * wrong[level] for level, size in levels.items()}
        units.append(
            Unit(
                id=one.id,
                client=one.client,
                wish=wishes[number],
                since=one.add,
                reachable=reachable,
                full=full,
                levels=levels,
                bases=bases[number].stack,
                last_full=bases[number].last_full(),
            )
        )
    amount = model.limits[night]
    limits = {} if amount is None else {BYTES: Limit(amount)}
    return View(night=night, weekday=night % 7, units=tuple(units), limits=limits, rules=rules)


def _estimates(model: Model, unit: int, past: Bases, max_level: int, night: int) -> Tuple[float, Dict[int, float]]:
    """Bytes of a full and of each level that makes sense: up to one above the highest recorded."""
    levels: Dict[int, float] = {}
    stack = past.stack
    for place, base in enumerate(stack):
        size = model.incremental(unit, base.night, night)
        above = stack[place + 1].level if place + 1 < len(stack) else base.level + 1
        for level in range(base.level + 1, min(above, max_level) + 1):
            levels[level] = size
    return model.full(unit, night), levels


def _run(
    model: Model, bases: Sequence[Bases], choices: Sequence[Choice], night: int, runs: int
) -> Tuple[List[Dict[str, Any]], List[Done]]:
    """Takes the dumps of one night in their order: (rows of the result, what the planner is told)."""
    rows: List[Dict[str, Any]] = []
    done: List[Done] = []
    seen = set()
    load = 0.0
    limit = model.limits[night]
    for place, choice in enumerate(choices):
        number = model.index.get(choice.unit)
        if number is None or not model.reachable(number, night) or number in seen:
            raise RuntimeError(f"night {night}: the planner chose {choice.unit!r}, which is away or had its turn")
        seen.add(number)
        past = bases[number]
        if choice.level == 0:
            size = model.full(number, night)
        else:
            base = past.below(choice.level)
            if base is None:
                raise RuntimeError(f"night {night}: the planner chose level {choice.level} of {choice.unit!r}: no base")
            size = model.incremental(number, base.night, night)
        good = place < runs and (limit is None or load + size <= limit * (1 + 1e-9))
        if good:
            load += size
            past.put(choice.level, night)
        row = {"source": model.units[number].source, "level": choice.level, "bytes": round(size), "ok": good}
        if model.units[number].part is not None:
            row["part"] = model.units[number].part
        rows.append(row)
        done.append(Done(choice.unit, choice.level, size if good else 0.0, good))
    return rows, done
