"""Bytes below which no planner can hold the highest night of a scenario: a bound that knows the future.

    python bench/schedule/bound.py SCENARIO [--from NIGHT --state RESULT] [--mip SECONDS]

It holds for any planner that is never late without excuse, skips nobody who is there and obeys the model. It is the
highest of
  lp   the least P so that the nights' sums of (least incremental + net full * share) are <= P, where fulls may be
       fractions, every incremental is against the night before (levels and chains forgotten), the past and what is due
       after the last night are free. Without indivisibility: what splitting a giant is measured against.
  big  one full is indivisible: for each unit and each cycle, its smallest full and everybody's incrementals.
  pig  pigeonhole: of the k*C+1 largest, some night of C holds k+1.
  avg  where max_chain or max_level bind: the least bytes of each unit over full intervals and levels, over the nights.
  mip  lp with whole fulls (at most 20 units; needs ortools).
--from NIGHT --state RESULT: from that night on with the ages of a real result (the fair bound after an outage).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import linprog

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from backupcore.schedule.model import FAR, Model  # noqa: E402

SCALE = 1e9  # the solver works in GB
SECONDS = 400.0


def bound(
    scenario: Dict[str, Any], start: Optional[int] = None, last_full: Optional[Sequence[int]] = None, mip: float = 0
) -> Dict[str, Any]:
    """{lp, big, pig, avg, bound, ...}, bytes. start, last_full (night of each unit's full): from a real state."""
    world = _World(scenario, start)
    out: Dict[str, Any] = {"scenario": scenario["name"]}
    out.update(_lp(world, last_full))
    out["big"], out["big_unit"] = _big(world)
    out["pig"] = _pigeons(world, scenario["cycle"])
    out["avg"] = _average(world, scenario)
    if mip and len(world.model.units) <= 20 and last_full is None and world.always.all():
        out.update(_mip(world, mip, out))
    kinds = ("lp", "big", "pig", "avg", "mip")
    out["bound"] = max(out[kind] for kind in kinds if out.get(kind))
    return out


class _World:
    """The model as matrices: unit x night."""

    def __init__(self, scenario: Dict[str, Any], start: Optional[int]):
        model = self.model = Model(scenario)
        self.start = scenario["warmup"] if start is None else start
        self.end = model.days
        units, days = range(len(model.units)), range(model.days)
        self.reach = np.array([[model.reachable(unit, night) for night in days] for unit in units])
        self.full = np.array([[model.full(unit, night) for night in days] for unit in units])
        self.size = np.array([[model.size(unit, night) for night in days] for unit in units])
        self.least = np.array([[one or 0.0 for one in model.least(unit)] for unit in units])
        for unit, one in enumerate(model.units):  # nothing is owed before the first full of what is added
            if one.add >= self.start and one.add < self.end:
                free = one.cycle + (0 if self.reach[unit, one.add :].all() else self.end)
                self.least[unit, one.add : one.add + free] = 0
        self.nights = [night for night in range(self.start, self.end) if model.up[night]]
        self.all_least = self.least.sum(0)
        self.always = np.array([self._always(unit) for unit in units])

    def first(self, unit: int) -> int:
        """Its first night in the window."""
        return max(self.start, self.model.units[unit].add)

    def last(self, unit: int) -> int:
        """The night after its last one."""
        return min(self.end, self.model.units[unit].remove)

    def _always(self, unit: int) -> bool:
        return bool(self.reach[unit, self.first(unit) : self.last(unit)].all())

    def windows(self, unit: int, last_full: Optional[int]) -> List[Tuple[int, int]]:
        """(first, last) nights within which a unit that is always there needs a full."""
        cycle, first, end = self.model.units[unit].cycle, self.first(unit), self.last(unit)
        found = [(night, night + cycle - 1) for night in range(first, end - cycle + 1)]
        if last_full is not None:
            found.append((first, max(first, self.model.deadline(unit, last_full))))
        return [(low, high) for low, high in found if high < end]


class _Matrix:
    """A sparse matrix that grows by entries."""

    def __init__(self) -> None:
        self.rows: List[int] = []
        self.columns: List[int] = []
        self.values: List[float] = []
        self.right: List[float] = []

    def put(self, row: int, column: int, value: float) -> None:
        self.rows.append(row)
        self.columns.append(column)
        self.values.append(value)

    def row(self, right: float) -> int:
        self.right.append(right)
        return len(self.right) - 1

    def made(self, width: int) -> Any:
        shape = (len(self.right), width)
        return sparse.csr_matrix((self.values, (self.rows, self.columns)), shape=shape) if self.right else None


class _Program:
    """min P (variable 0) over the loads of the nights."""

    def __init__(self, world: _World):
        self.world = world
        self.at_most, self.equal = _Matrix(), _Matrix()
        self.variables = 1
        self.load: Dict[int, int] = {}
        for night in world.nights:
            self.load[night] = self.at_most.row(-float(world.all_least[night]) / SCALE)
            self.at_most.put(self.load[night], 0, -1.0)

    def full_on(self, unit: int, night: int) -> int:
        """A new variable: the share of a full of unit on night."""
        variable = self.variable()
        net = self.world.full[unit, night] - self.world.least[unit, night]
        self.at_most.put(self.load[night], variable, net / SCALE)
        return variable

    def variable(self) -> int:
        self.variables += 1
        return self.variables - 1

    def steady(self, unit: int, last_full: Optional[int]) -> None:
        """A unit that is always there: a full in each window."""
        world = self.world
        on = {night: self.full_on(unit, night) for night in range(world.first(unit), world.last(unit))}
        for low, high in world.windows(unit, last_full):
            row = self.at_most.row(-1.0)
            for night in range(low, high + 1):
                self.at_most.put(row, on[night], -1.0)

    def flaky(self, unit: int, last_full: Optional[int]) -> None:
        """A unit that is away at times: a flow of one from full to full, each within the deadline of the one before."""
        world, model, one = self.world, self.world.model, self.world.model.units[unit]
        there = [int(night) for night in np.flatnonzero(world.reach[unit]) if night >= world.start]
        limit = {night: model.deadline(unit, night) for night in there}
        if one.add >= world.start:
            first_limit = model.deadline(unit, one.add - 1)
        elif last_full is not None:
            first_limit = max(world.start, model.deadline(unit, last_full))
        else:  # the past is free: the best of all nights on which the full before may have been
            oldest = -one.cycle if one.add == 0 else one.add - 1
            first_limit = max((model.deadline(unit, night) for night in range(oldest, world.start)), default=world.end)
        node = {night: self.equal.row(0.0) for night in there}
        source = self.equal.row(1.0)

        def arc(before: Optional[int], after: Optional[int]) -> None:
            variable = self.variable() if after is None else self.full_on(unit, after)
            self.equal.put(source if before is None else node[before], variable, 1.0)
            if after is not None:
                self.equal.put(node[after], variable, -1.0)

        for night in there:
            if night <= first_limit:
                arc(None, night)
        if first_limit >= world.end:
            arc(None, None)
        for place, before in enumerate(there):
            for after in there[place + 1 :]:
                if after > limit[before]:
                    break
                arc(before, after)
            if limit[before] >= world.end:
                arc(before, None)

    def solve(self) -> Tuple[Optional[int], str]:
        cost = np.zeros(self.variables)
        cost[0] = 1
        found = linprog(
            cost,
            A_ub=self.at_most.made(self.variables),
            b_ub=np.array(self.at_most.right),
            A_eq=self.equal.made(self.variables),
            b_eq=np.array(self.equal.right) if self.equal.right else None,
            bounds=[(0, None)] + [(0, 1)] * (self.variables - 1),
            method="highs-ipm" if self.variables > 20000 else "highs",
            options={"time_limit": SECONDS},
        )
        return (round(found.x[0] * SCALE) if found.status == 0 else None), found.message[:40]


def _lp(world: _World, last_full: Optional[Sequence[int]]) -> Dict[str, Any]:
    program = _Program(world)
    for unit, one in enumerate(world.model.units):
        if world.first(unit) >= world.last(unit):
            continue
        known = None if last_full is None or one.add >= world.start else int(last_full[unit])
        (program.steady if world.always[unit] else program.flaky)(unit, known)
    lowest, status = program.solve()
    return {"lp": lowest, "lp_status": status, "lp_variables": program.variables}


def _big(world: _World) -> Tuple[int, Optional[str]]:
    highest, who = 0.0, None
    for unit, one in enumerate(world.model.units):
        for first in range(world.first(unit), world.last(unit) - one.cycle + 1):
            nights = slice(first, first + one.cycle)
            if world.reach[unit, nights].all():
                least = float((world.full[unit] + world.all_least - world.least[unit])[nights].min())
                if least > highest:
                    highest, who = least, one.id
    return round(highest), who


def _pigeons(world: _World, cycle: int) -> int:
    model = world.model
    steady = [
        unit for unit, one in enumerate(model.units) if world.reach[unit, world.start :].all() and one.cycle == cycle
    ]
    base = min(world.all_least[night] for night in world.nights)
    net = sorted((float((world.size - world.least)[unit, world.start :].min()) for unit in steady), reverse=True)
    highest = 0.0
    for many in range(1, 6):
        if len(net) >= many * cycle + 1 and world.end - world.start >= cycle:
            highest = max(highest, base + sum(net[many * cycle - many : many * cycle + 1]))
    return round(highest)


def _average(world: _World, scenario: Dict[str, Any]) -> Optional[int]:
    depth = min(scenario["max_level"], (scenario.get("max_chain") or FAR) - 1)
    cycle, model = scenario["cycle"], world.model
    plain = not any(source.get("growth") or source.get("week") or source.get("cycle") for source in scenario["sources"])
    if depth >= cycle - 1 or not world.reach.all() or not plain or depth < 1:
        return None
    start, end = world.start, world.end
    zero = np.zeros(len(model.units))
    aged = [zero] + [
        np.array([model.incremental(unit, start, start + age) for unit in range(len(model.units))])
        for age in range(1, cycle + 1)
    ]
    chain = _chain_costs(aged, depth, cycle)
    full = world.full[:, start]
    best: Dict[int, Any] = {}  # least bytes of start..night-1 with a full on night, itself not counted
    for night in range(start, end):
        ways = [chain[night - start]] if night < start + cycle else []
        ways += [best[before] + full + chain[night - before - 1] for before in range(max(start, night - cycle), night)]
        best[night] = np.minimum.reduce(ways)
    last = np.minimum.reduce([best[night] + full + chain[end - 1 - night] for night in range(end - cycle, end)])
    return round(float(last.sum()) / (end - start))


def _chain_costs(aged: List[Any], depth: int, cycle: int) -> List[Any]:
    """The least bytes of 0..cycle-1 nights after a full with so many levels of incrementals."""
    memo: Dict[Tuple[int, int, int], Any] = {}

    def least(levels: int, age: int, nights: int) -> Any:
        """nights are left, the next is age after the base of the current level, levels from here down."""
        if nights == 0:
            return aged[0]
        key = (levels, age, nights)
        if key not in memo:
            memo[key] = np.minimum.reduce(
                [
                    aged[age]
                    + (least(levels - 1, 1, deeper) if deeper else 0)
                    + least(levels, age + deeper + 1, nights - 1 - deeper)
                    for deeper in range(nights if levels > 1 else 1)
                ]
            )
        return memo[key]

    return [least(depth, 1, nights) for nights in range(cycle)]


def _mip(world: _World, seconds: float, known: Dict[str, Any]) -> Dict[str, Any]:
    from ortools.sat.python import cp_model

    program, unit_bytes = cp_model.CpModel(), 10**6
    lowest = max(known["lp"] or 0, known["big"], known["pig"]) // unit_bytes
    peak = program.NewIntVar(int(lowest), int(world.full.sum() / unit_bytes), "peak")
    units = range(len(world.model.units))
    on = {
        (unit, night): program.NewBoolVar("") for unit in units for night in range(world.first(unit), world.last(unit))
    }
    for night in world.nights:
        net = {unit: int((world.full - world.least)[unit, night] // unit_bytes) for unit in units}
        fulls = sum(net[unit] * on[unit, night] for unit in units if (unit, night) in on)
        program.Add(fulls + int(world.all_least[night] // unit_bytes) <= peak)
    for unit in units:
        for low, high in world.windows(unit, None):
            program.AddBoolOr([on[unit, night] for night in range(low, high + 1)])
    program.Minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 2
    status = solver.StatusName(solver.Solve(program))
    return {"mip": round(solver.BestObjectiveBound() * unit_bytes), "mip_status": status}


def fulls_before(scenario: Dict[str, Any], result: Dict[str, Any], night: int) -> List[int]:
    """The night of each unit's last good full before night."""
    model = Model(scenario)
    last = [unit.add - 1 for unit in model.units]
    for at in range(night):
        for row in result["nights"][at]:
            if row["level"] == 0 and row["ok"]:
                last[model.by_source[row["source"], row.get("part")]] = at
    return last


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("scenario")
    cli.add_argument("--from", dest="start", type=int)
    cli.add_argument("--state")
    cli.add_argument("--mip", type=float, default=0)
    asked = cli.parse_args()
    given = json.loads(Path(asked.scenario).read_text())
    state = fulls_before(given, json.loads(Path(asked.state).read_text()), asked.start) if asked.state else None
    print(json.dumps(bound(given, asked.start, state, asked.mip), indent=1))
