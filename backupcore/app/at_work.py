"""What runs now, for whoever looks: from the lock, who waits for it, and the file that the run at work keeps.

Here live putting these together, and what a run tells its status file of the plan. What the file has is
dump/status.py's, who holds the lock dump/runlock.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

from .. import clock, hours
from ..schedule.records import SECONDS
from .plan_room import size_of
from .plan_state import unit_id

if TYPE_CHECKING:
    from .engine import Engine

SILENT = 30.0  # seconds without a sign of life that are told


def look(engine: Engine) -> Dict[str, Any]:
    """running: what is at work, None when nothing is; killed: a run that ended without a word, None when none did since
    the last one; waiting: who waits for the end of what is at work."""
    from ..dump import runlock, status

    kept = status.read(engine.settings)
    holder = runlock.holder(engine.settings)
    waiting = [one.as_dict() for one in runlock.waiting(engine.settings)]
    if holder is not None:
        return {"running": _running(kept, holder), "killed": None, "waiting": waiting}
    # between the two looks it may have come to its end
    if kept is None or status.read(engine.settings) is None or runlock.holder(engine.settings) is not None:
        return {"running": None, "killed": None, "waiting": waiting}
    return {"running": None, "killed": _dated(kept), "waiting": waiting}


def _running(kept: Any, holder: Any) -> Dict[str, Any]:
    who = {**holder.as_dict(), "alive": True} if holder.pid else {"alive": True}
    if kept is None or holder.pid and kept["pid"] != holder.pid:
        return {"dumps": [], **who}  # between two steps of a run nothing keeps the file
    found = {**_dated(kept), **who}
    silent = (clock.now_ns() - kept["heartbeat_ns"]) / clock.NS
    return {**found, "silent": round(silent)} if silent > SILENT else found


def _dated(kept: Dict[str, Any]) -> Dict[str, Any]:
    """With the moments as people and playbooks read them."""
    copies = kept.get("copies")
    found = {**kept, **_iso(kept), "dumps": [{**one, **_iso(one)} for one in kept.get("dumps", ())]}
    if isinstance(copies, dict):
        found["copies"] = {**copies, **_iso(copies)}
    return found


def _iso(value: Dict[str, Any]) -> Dict[str, Any]:
    """`ends` of `ends_ns`, and so on."""
    names = [name for name in value if name.endswith("_ns")]
    return {name[:-3]: clock.iso(value[name]) if isinstance(value[name], int) and value[name] else None
            for name in names}  # fmt: skip


def todo(engine: Engine, tonight: Any, copies: bool = True) -> List[Any]:
    """The dumps of a plan as status.Status takes them. tonight: a planning.Tonight. copies: they are made, too."""
    from ..dump.rates import Todo
    from ..dump.source import shown_source

    found, now = [], clock.now_ns()
    night = hours.weekday_of(hours.night_of(now))
    for one in tonight.planned:
        name = unit_id(one.client, one.source, "" if one.newer_ns else one.segment)
        size = seconds = None
        expected, unit = tonight.expected.get(name), tonight.units.get(name)
        if one.newer_ns:
            size = next((each.bytes for each in tonight.interim if each.unit == name), None)
        elif expected is not None and unit is not None and expected.how != "default":
            # what changes is only guessed before an incremental has shown it
            size = None if one.level and expected.guessed else size_of(unit, one.level)
            if size is not None and tonight.ones[name].habits.speed:
                seconds = unit.takes(SECONDS, one.level == 0, size)
        client = engine.settings.clients.get(one.client)
        network = client.network if client is not None else ""
        found.append(Todo(one.client, shown_source(one.source, one.segment), one.level,
                          None if size is None else round(size), seconds, one.not_before_ns,
                          _copies(engine, one, now, night) if copies else 0, network))  # fmt: skip
    return found


def _copies(engine: Engine, one: Any, now: int, night: int) -> int:
    """So many copies are made of a dump as soon as it is whole. night: the weekday to which it belongs."""
    source = engine.settings.source(one.client, one.source)
    rules = [
        rule for rule in (source.copies if source is not None else ())
        if rule.takes(1 if one.newer_ns else one.level)
        and (rule.made_on is None or night in rule.made_on) and (rule.windows is None or rule.windows.open_at(now))
    ]  # fmt: skip
    return len([rule for rule in rules if not rule.every or _is_first(engine, source, one, rule, now)])


def _is_first(engine: Engine, source: Any, one: Any, rule: Any, now: int) -> bool:
    """Whether no dump of this day, week or month was chosen for a target that takes one of them."""
    from ..catalog import wants
    from ..stage.wanted import copies_by_dump

    rows = [row for row in engine.catalog.dumps(one.client, one.source) if row.segment == one.segment]
    span = wants.span_of(rule.every, hours.night_of(now))
    of_span = [row for row in wants.candidates(rule, rows) if wants.span_of(rule.every, wants.night_of(row)) == span]
    return wants.first(of_span, rule.target, copies_by_dump(engine.catalog, (one.client, one.source))) is None
