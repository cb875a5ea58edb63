"""What a run leaves to the planning of the next one: that it began, and what came of it.

Here live the two moments at which planner.json is written; what stands in it is plan_state.py's. tonight is a
planning.Tonight. Nothing here may fail a run: who calls says what could not be kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Sequence

from .. import ids
from ..errors import ClientUnreachable
from ..schedule import estimates
from ..schedule.memory import Memory, remember
from ..schedule.records import Done, Unit
from ..settings import Settings
from . import plan_state
from .plan_state import unit_id


def begin(settings: Settings, tonight: Any, run: str) -> None:
    """Notes that a run of everything has begun, so that a second one in this night knows. Raises OSError."""
    if tonight.everything:
        night = tonight.view.night
        runs = tonight.kept.runs if tonight.kept.night == night else ()
        since = {unit.id: unit.since for unit in tonight.view.units}
        kept = replace(tonight.kept, night=night, runs=(*runs, run)[-24:], since=since)
        plan_state.write(settings.state, kept)


def done(catalog: Any, results: Sequence[Any]) -> List[Done]:
    """What became of each unit, from the rows of the driver's results."""
    found = []
    for result in results:
        if result.segment == ids.INTERIM:
            continue  # it is nothing of the plan
        row = catalog.dump(result.dump) if result.dump else None
        unit = unit_id(result.client, result.source, result.segment)
        level = row.level if row else (result.level or 0)
        found.append(Done(unit, level, float(row.stored_size) if row else 0.0, result.ok))
    return found


def _keep_estimates(catalog: Any, tonight: Any, results: Sequence[Any]) -> None:
    """What was expected and what came: shown, and what the next choice between a walk and history is made by."""
    from ..dump.estimate import rows_of

    levels = {unit_id(one.client, one.source, one.segment): one.level for one in tonight.planned}
    rows = []
    for result in results:
        row = catalog.dump(result.dump) if result.ok and result.dump else None
        unit = unit_id(result.client, result.source, result.segment)
        expected = tonight.expected.get(unit)
        if row is not None and expected is not None:
            rows += rows_of(row, expected, levels.get(unit, row.level))
    catalog.add_estimates(rows)


def end(settings: Settings, catalog: Any, tonight: Any, results: Sequence[Any], taken: Sequence[Any] = ()) -> None:
    """Keeps what the night taught. taken: results of a run that this one waited for, which has kept its own estimates.
    Raises OSError."""
    _keep_estimates(catalog, tonight, results)
    results = [*taken, *results]
    results_of = done(catalog, results)
    there = {result.client for result in results if result.ok}
    away = {result.client for result in results if result.code == ClientUnreachable.code and not result.ok} - there
    failed = {(result.client, result.source) for result in results if not result.ok}
    # a limit left no room for the level that was asked for: it stays asked for
    levels = {unit_id(one.client, one.source, one.segment): one.level for one in tonight.planned}
    failed |= {tonight.ones[one.unit].key for one in results_of
               if one.ok and one.unit in levels and one.level > levels[one.unit]}  # fmt: skip
    made = {(result.client, result.source) for result in results if result.ok} - failed
    plan_state.forget(settings.state, sorted(made & tonight.asked_once))
    if not tonight.plan.outlook:
        return  # of a schedule of its own: nothing was planned
    asked = {one.unit for one in results_of}
    units = []
    for unit in tonight.view.units:
        if unit.client in away | there:
            unit = replace(unit, reachable=unit.client not in away)
        expected = tonight.expected[unit.id]
        if expected.how == "default" or expected.guessed:  # a guess that was wrong says nothing of estimates
            unit = replace(unit, full=None if expected.how == "default" else unit.full, levels={})
        units.append(unit)
    # what a run by name was not asked for is neither made nor missed
    choices = tuple(one for one in tonight.plan.choices if tonight.everything or one.unit in asked)
    view, plan = replace(tonight.view, units=tuple(units)), replace(tonight.plan, choices=choices)
    try:
        memory = remember(tonight.kept.memory, view, plan, results_of)
    except Exception:  # as in plan_plain: a fault here makes nights uneven, no more
        memory = Memory()
    kept = plan_state.read(settings.state)  # with the run that begin() noted
    away |= {name for name in kept.away if name not in there and name in settings.clients}
    since = {unit.id: unit.since for unit in units}
    whole = {one.unit for one in results_of if one.ok}
    ended = {unit: one for unit, one in kept.ended.items() if unit in since and unit not in whole}
    ended.update({unit: (*one, tonight.view.night) for unit, one in tonight.cut_short.items()})
    plan_state.write(settings.state, replace(kept, memory=memory, away=tuple(sorted(away)), since=since, ended=ended))


def off(tonight: Any, made: Sequence[Done]) -> List[float]:
    """How far what was expected was off, a share, of each dump that is good; a default is no estimate."""
    units: Dict[str, Unit] = {unit.id: unit for unit in tonight.view.units}
    found = []
    for one in made:
        unit = units.get(one.unit)
        told = tonight.expected[one.unit] if unit is not None and one.ok else None
        expected = told.of(one.level) if told is not None and told.how != "default" else None
        if unit is not None and expected is not None:
            found.append(estimates.error_of(expected, one.bytes, unit.full or 0.0))
    return found
