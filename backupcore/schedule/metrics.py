"""The figures of a replay, made from the scenario and the result alone.

Here lives the score: every byte is derived from the model again, so that a result cannot flatter itself; nothing here
knows a planner. What each figure means stands in docs/scheduler.md.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

from .model import Bases, Model


def score(scenario: Mapping[str, Any], result: Mapping[str, Any], bound: Optional[float] = None) -> Dict[str, Any]:
    """The figures of a result. bound: bytes below which no planner can hold the highest night."""
    model = Model(scenario)
    tally = _Tally(model, scenario)
    for night in range(model.days):
        tally.night(night, result["nights"][night] if night < len(result["nights"]) else ())
    nights = [night for night in range(scenario["warmup"], model.days) if model.up[night]]
    loads = [tally.loads[night] for night in nights]
    mean = sum(loads) / len(loads)
    peak = max(loads)
    first = max(tally.loads[: scenario["warmup"]], default=None)
    return {
        "scenario": scenario["name"],
        "planner": result.get("planner"),
        "peak_over_mean": _ratio(peak, mean),
        "peak_over_bound": _ratio(peak, bound),
        "mean_over_bound": _ratio(mean, bound),
        "p95_over_mean": _ratio(percentile(loads, 95), mean),
        "peak_night": nights[loads.index(peak)],
        "peak_bytes": round(peak),
        "mean_bytes": round(mean),
        "extra_full": round(tally.net_fulls / tally.net_due - 1, 3) if tally.net_due else None,
        "late": tally.late,
        "late_hard": tally.late_hard,
        "missed": tally.missed,
        "chain_max": tally.chain,
        "chain_viol": tally.chain_faults,
        "night0_over_mean": _ratio(tally.loads[0], mean, 2),
        "first_peak_over_mean": _ratio(first, mean, 2),
        "unprotected": tally.unprotected,
        "last_unprotected": tally.last_unprotected,
        "capacity_failures": tally.too_much,
        "plan_s": result.get("plan_seconds_max"),
        "errors": len(tally.faults),
        "first_errors": tally.faults[:3],
    }


def loads(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> List[float]:
    """The bytes of each night, derived from the model."""
    model = Model(scenario)
    tally = _Tally(model, scenario)
    for night in range(model.days):
        tally.night(night, result["nights"][night])
    return tally.loads


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between the two nearest."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)


def _ratio(value: Optional[float], by: Optional[float], digits: int = 3) -> Optional[float]:
    return round(value / by, digits) if by and value is not None else None


class _Tally:
    """What adds up night by night."""

    def __init__(self, model: Model, scenario: Mapping[str, Any]):
        self.model = model
        self.warmup: int = scenario["warmup"]
        self.max_level: int = scenario["max_level"]
        self.max_chain: Optional[int] = scenario.get("max_chain")
        self.bases = [Bases() for _ in model.units]
        self.least = [model.least(number) for number in range(len(model.units))]
        self.last_full = [unit.add - 1 for unit in model.units]
        self.loads = [0.0] * model.days
        self.faults: List[List[Any]] = []
        self.net_fulls = self.net_due = 0.0
        self.late = self.late_hard = self.missed = self.unprotected = self.too_much = 0
        self.chain = self.chain_faults = 0
        self.last_unprotected = -1

    def night(self, night: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes in the dumps of a night, then looks at everybody who is there."""
        got: Dict[int, bool] = {}
        for row in rows:
            self._dump(night, row, got)
        for number, unit in enumerate(self.model.units):
            if not unit.add <= night < unit.remove:
                continue
            if night >= self.warmup:
                self.net_due += (self.model.size(number, night) - (self.least[number][night] or 0)) / unit.cycle
            if self.model.reachable(number, night):
                self._look(night, number, got.get(number, False))

    def _dump(self, night: int, row: Mapping[str, Any], got: Dict[int, bool]) -> None:
        model = self.model
        number = model.by_source.get((row["source"], row.get("part")))
        level = row["level"]
        if number is None:
            return self._fault(night, row, "unknown")
        if not model.reachable(number, night) or number in got:
            return self._fault(night, row, "away or had its turn")
        past = self.bases[number]
        base = past.below(level) if level else None
        if level and base is None:
            return self._fault(night, row, "no base")
        if level > self.max_level:
            self._fault(night, row, "level too high")
        size = model.full(number, night) if base is None else model.incremental(number, base.night, night)
        if abs(size - row["bytes"]) > 2 + 1e-6 * size:
            self._fault(night, row, f"bytes {row['bytes']} instead of {size:.0f}")
        limit = model.limits[night]
        if limit is not None and self.loads[night] + size > limit * (1 + 1e-9):
            self.too_much += 1
            got[number] = False
            return None
        if not row["ok"]:
            got[number] = False
            return None
        self.loads[night] += size
        got[number] = True
        self._good(night, number, level, size)
        return None

    def _good(self, night: int, number: int, level: int, size: float) -> None:
        chain = self.bases[number].put(level, night)
        if night >= self.warmup:
            self.chain = max(self.chain, chain)
        if self.max_chain and chain > self.max_chain:
            self.chain_faults += 1
        if level == 0:
            self.last_full[number] = night
            if night >= self.warmup:
                self.net_fulls += size - (self.least[number][night] or 0)

    def _look(self, night: int, number: int, dumped: bool) -> None:
        """Is a unit whose client is there protected, dumped, in time?"""
        model = self.model
        if self.bases[number].last_full() is None:
            self.unprotected += 1
            self.last_unprotected = night
        elif not dumped:
            self.missed += 1
        due = self.last_full[number] + model.units[number].cycle
        if night < due:
            return
        self.late += 1
        if model.reachable(number, due):
            self.late_hard += 1
        else:
            back = model.next_reachable(number, due)
            if back is not None and night >= back + model.grace:
                self.late_hard += 1

    def _fault(self, night: int, row: Mapping[str, Any], why: str) -> None:
        self.faults.append([night, row["source"], why])
