"""Interim dumps of a night: what is known of the sources that wait for their first full becomes the driver's work.

Here lives the way from tonight's plan to schedule.interim and back. Which of them get an interim dump is decided there;
nothing here changes what was planned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Set, Tuple

from .. import ids
from ..schedule import interim, nights
from ..schedule.bases import Claim, Planned
from . import plan_ask, plan_room


def add(planner: Any, tonight: Any) -> Any:
    """tonight, a planning.Tonight, with the interim dumps of sources that wait for their first full.

    planner: the planning.Planner that made it. A client is asked how much is recent where nothing tells yet, if clients
    may be asked at all.
    """
    named = {(one.client, one.source) for one in tonight.planned}
    waiting = [tonight.ones[unit.id] for unit, _until in interim.waiting(tonight.view, tonight.plan)]
    waiting = [one for one in waiting if not one.segment and not one.leaving and one.key not in named]
    able = {one.id: newer for one in waiting if (newer := plan_ask.newer_of(one.source, tonight.now_ns)) is not None}
    if not able:
        return tonight
    notes: Tuple[str, ...] = ()
    old: Set[str] = set()
    recent: Dict[str, float] = {}
    if planner.round is not None:
        notes = planner.round.ask_recent([one for one in waiting if one.id in able])
        old = planner.round.old & {tonight.ones[unit].source.client for unit in able}
        recent = {unit: _stored(tonight, unit, found) for unit, found in planner.round.recent.items() if unit in able}
    for unit in able:
        before = planner.interims.get(tonight.ones[unit].key)
        if unit not in recent and before:
            recent[unit] = float(before[-1].stored)  # as in the last night
    recent = {unit: size for unit, size in recent.items() if tonight.ones[unit].source.client not in old}
    chosen = [one for one in interim.choose(tonight.view, tonight.plan, recent) if one.unit in able]
    found: List[interim.Interim] = []
    planned: List[Planned] = []
    for one in chosen:
        source = tonight.ones[one.unit].source
        if source.client in old:
            told = f"the agent of {source.client} is too old for interim dumps: run the playbook site again"
            one = replace(one, chosen=False, why=told)
        elif one.bytes is None and planner.round is None:
            one = replace(one, why="how much of it is recent is asked when the night begins")
        found.append(one)
        if one.chosen:
            planned.append(_planned(tonight, one, able[one.unit]))
    return replace(
        tonight, planned=(*tonight.planned, *planned), interim=tuple(found), notes=(*tonight.notes, *notes)
    )  # fmt: skip


def _stored(tonight: Any, unit: str, walked: Any) -> float:
    """Bytes of an image of what is recent: the same share of what a full takes."""
    expected = tonight.expected[unit]
    share = min(1.0, walked.recent / walked.bytes) if walked.bytes > 0 else 0.0
    return share * expected.full


def _planned(tonight: Any, one: interim.Interim, newer_ns: int) -> Planned:
    source = tonight.ones[one.unit].source
    until = f", planned for {nights.day_of(one.until):%a %d %b}" if one.until is not None else ""
    reason = f"what changed in the last {source.timing.interim:g} days, while it waits for its first full{until}"
    earliest = source.timing.earliest
    begin = 0 if earliest is None else nights.at(tonight.view.night, earliest)
    unit, limits = tonight.units[one.unit], plan_room.hard(plan_room.of_night(tonight))
    claim = None
    if limits:  # after all that was planned, and the first to be ended
        claim = Claim(interim.takes(unit, one.bytes or 0.0, limits), unit.full or 0.0, unit.wish.priority, True, True)
    return Planned(
        source.client, source.name, 0, None, reason, begin if begin > tonight.now_ns else 0, ids.INTERIM, newer_ns,
        claim,
    )  # fmt: skip
