"""How a plan reads: as JSON, as tables with a chart of the coming nights, and in sentences for one source.

Here live pure functions from planning.Tonight to values and text; nothing here decides or prints.
"""

from __future__ import annotations

import re
from statistics import median
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .. import clock, text
from ..report.planned import given_up_lines, interim_line
from ..schedule import estimates, nights
from ..schedule.interim import Interim
from ..schedule.records import BYTES, HOLDING, SECONDS, TARGET, Done, GivenUp, Unit
from .plan_kept import off
from .plan_room import size_of
from .plan_state import unit_id
from .planning import One, Tonight

BLOCKS = " ▏▎▍▌▋▊▉█"
WIDTH = 30
MOST_GIVEN = 100  # kept with a run; the number of all is kept too


def day(night: Optional[int], tonight: Optional[int] = None) -> str:
    """`Mon 23 Nov`, tonight, tomorrow; the night that begins on that day."""
    if night is None:
        return "-"
    if tonight is not None and night - tonight in (0, 1):
        return ("tonight", "tomorrow")[night - tonight]
    return nights.day_of(night).strftime("%a %d %b")


def worded(told: str) -> str:
    """The planner's words with days for the numbers of nights, and sizes and times for bare amounts."""
    told = re.sub(r"\bnight (\d{6})\b", lambda match: f"the night of {day(int(match.group(1)))}", told)
    told = re.sub(rf"limit of ({_NUMBER}) ({_RESOURCE})", lambda m: f"limit of {_amount(m.group(2), m.group(1))}", told)
    told = re.sub(
        rf"more ({_RESOURCE}) than a night's limit of ({_NUMBER})",
        lambda m: f"more than a night's limit of {_amount(m.group(1), m.group(2))}", told,
    )  # fmt: skip
    told = re.sub(rf"tonight's ({_RESOURCE})\b", lambda match: f"tonight's {_resource(match.group(1))}", told)
    return text.escape(told)


_NUMBER, _RESOURCE = r"\d[\d.]*(?:e[+-]?\d+)?", r"bytes|seconds|holding|target:[\w.-]+"


def _amount(resource: str, number: str) -> str:
    if resource == SECONDS:
        return f"{text.duration(float(number))} of dumps"
    size = text.size(float(number))
    return size if resource == BYTES else f"{size} on {_resource(resource)}"


def _resource(name: str) -> str:
    words = {SECONDS: "time", HOLDING: "the holding disks"}
    return words.get(name) or (name[len(TARGET) :] if name.startswith(TARGET) else name)


# values


def as_dict(tonight: Tonight, off: Mapping[str, estimates.Accuracy]) -> Dict[str, Any]:
    """JSON-ready: all of the plan. off: how far estimates were off, by unit."""
    plan = tonight.plan
    return {
        "night": _iso(plan.night),
        "sources": [_source(tonight, one) for one in tonight.planned],
        "given_up": [_given(tonight, one) for one in plan.given_up],
        "absent": sorted({tonight.ones[unit].source.client for unit in plan.absent}),
        "forecast": [
            {"night": _iso(one.night), "bytes": round(one.load.get(BYTES, 0.0) + tonight.between),
             "seconds": round(seconds(tonight, one)),
             "targets": {name: round(size) for name, size in targets(tonight, one).items()},
             "fulls": list(one.fulls)}
            for one in plan.outlook
        ],
        "limits": {name: {"amount": one.amount, "hard": one.hard} for name, one in tonight.view.limits.items()},
        "first_fulls": first_fulls(tonight),
        "interim": [_interim(tonight, one) for one in tonight.interim],
        "estimates": {
            "error": _known_error(tonight, off),
            "sources": {unit: accuracy(one) for unit, one in off.items() if unit in tonight.ones},
            "notes": [text.escape(note) for note in tonight.notes],
        },
    }  # fmt: skip


def _source(tonight: Tonight, planned: Any) -> Dict[str, Any]:
    unit, one = _unit_of(tonight, planned)
    choice = tonight.choices.get(one.id)
    size = size_of(unit, planned.level)
    if planned.newer_ns:
        size = next((each.bytes for each in tonight.interim if each.unit == one.id), None)
    return {
        "client": planned.client, "source": planned.source, "segment": planned.segment, "level": planned.level,
        "base": planned.base, "newer": clock.iso(planned.newer_ns) if planned.newer_ns else None,
        "reason": worded(planned.reason), "bytes": None if size is None else round(size),
        "seconds": None if size is None else round(unit.takes(SECONDS, planned.level == 0, size)),
        "estimate": tonight.expected[one.id].how,
        "due": _iso(choice.due) if choice else None, "next_full": _iso(choice.next_full) if choice else None,
        "not_before": planned.not_before_ns // 10**9 or None,
    }  # fmt: skip


def _given(tonight: Tonight, one: GivenUp) -> Dict[str, Any]:
    source = tonight.ones[one.unit].source
    return {"client": source.client, "source": source.name, "segment": tonight.ones[one.unit].segment,
            "what": one.what, "why": worded(one.why), "until": _iso(one.until)}  # fmt: skip


def _interim(tonight: Tonight, one: Interim) -> Dict[str, Any]:
    source = tonight.ones[one.unit].source
    return {"client": source.client, "source": source.name, "dumped": one.chosen, "why": worded(one.why),
            "bytes": None if one.bytes is None else round(one.bytes), "until": _iso(one.until)}  # fmt: skip


def _iso(night: Optional[int]) -> Optional[str]:
    return nights.day_of(night).isoformat() if night is not None else None


def _unit_of(tonight: Tonight, planned: Any) -> Tuple[Unit, One]:
    name = unit_id(planned.client, planned.source, "" if planned.newer_ns else planned.segment)
    return tonight.units[name], tonight.ones[name]


def seconds(tonight: Tonight, outlook: Any) -> float:
    """How long the dumps of a night take, side by side."""
    told = outlook.load.get(SECONDS)
    if told is None:
        rates = [unit.takes(SECONDS, True, unit.full or 0.0) for unit in tonight.view.units]
        total = sum(unit.full or 0.0 for unit in tonight.view.units)
        told = outlook.load.get(BYTES, 0.0) * (sum(rates) / total if total else 0.0)
    told += tonight.beside.get(SECONDS, 0.0)
    return told / max(1, min(tonight.at_once, len(tonight.ones)))


def targets(tonight: Tonight, outlook: Any) -> Dict[str, float]:
    """Bytes that a night brings each target, where the planner tells."""
    return {name[len(TARGET) :]: size + tonight.beside.get(name, 0.0)
            for name, size in outlook.load.items() if name.startswith(TARGET)}  # fmt: skip


def first_fulls(tonight: Tonight) -> Dict[str, int]:
    """How many sources wait for their first full, and over how many nights these are spread."""
    waiting = {unit.id for unit in tonight.view.units if unit.last_full is None and unit.wish.strategy != "skip"}
    last = 0
    for place, one in enumerate(tonight.plan.outlook):
        if waiting & set(one.fulls):
            last = place + 1
    return {"sources": len(waiting), "nights": max(1, last) if waiting else 0}


def accuracy(off: estimates.Accuracy) -> Dict[str, Any]:
    """How far off the estimates of one source were, as shares; null where too few dumps tell."""
    shown = {name: None if value is None else round(value, 4) for name, value in (
        ("error", off.used), ("by_history", off.history))}  # fmt: skip
    return {**shown, "dumps": off.dumps}


def _known_error(tonight: Tonight, off: Mapping[str, estimates.Accuracy]) -> Optional[float]:
    """How far estimates were off of late, the median of all sources; None when nothing tells."""
    known = [one.used for unit, one in off.items() if unit in tonight.ones and one.used is not None]
    return round(median(known), 4) if known else None


# what a run keeps and its report tells


def summary(tonight: Tonight, done: Sequence[Done]) -> Dict[str, Any]:
    """What a run remembers of its plan: what was given up and why, fulls that are late, how far estimates were off."""
    made = {one.unit for one in done if one.ok and one.level == 0}
    tried = {one.unit for one in done}
    wrong = off(tonight, done)
    late = []
    for unit in tonight.view.units:
        wish = unit.wish
        if unit.last_full is None or unit.id in made or wish.own or wish.strategy not in ("standard", "full"):
            continue
        nights_late = tonight.view.night - (unit.last_full + wish.cycle)
        if nights_late > 0 and (tonight.everything or unit.id in tried):
            source = tonight.ones[unit.id].source
            why = "" if unit.reachable else "its client is away"
            late.append({"client": source.client, "source": source.name, "segment": tonight.ones[unit.id].segment,
                         "nights": nights_late, "why": why})  # fmt: skip
    asked = tried | {unit_id(one.client, one.source, one.segment) for one in tonight.planned}
    given = [one for one in tonight.plan.given_up if tonight.everything or one.unit in asked]
    return {
        "night": _iso(tonight.view.night),
        "given_up": [_given(tonight, one) for one in given[:MOST_GIVEN]], "given_up_count": len(given),
        "late": late[:MOST_GIVEN], "late_count": len(late),
        "estimates": {"error": round(median(wrong), 4) if wrong else None, "of": len(wrong),
                      "notes": [text.escape(note) for note in tonight.notes[:MOST_GIVEN]]},
        "first_fulls": first_fulls(tonight),
        "interim": [_interim(tonight, one) for one in tonight.interim[:MOST_GIVEN]],
    }  # fmt: skip


# tables


def table_rows(tonight: Tonight) -> List[List[str]]:
    """A row for each source: client, source, level, bytes, time, reason, due."""
    rows = []
    for planned in tonight.planned:
        told = _source(tonight, planned)
        choice = tonight.choices.get(unit_id(planned.client, planned.source, planned.segment))
        rows.append([
            planned.client,
            f"{planned.source}/{planned.segment}" if planned.segment and not planned.newer_ns else planned.source,
            "interim" if planned.newer_ns else "full" if planned.level == 0 else str(planned.level),
            "-" if told["bytes"] is None else text.size(told["bytes"]),
            "-" if told["seconds"] is None else text.duration(told["seconds"]),
            day(choice.due if choice else None, tonight.view.night), worded(planned.reason),
        ])  # fmt: skip
    return rows


def chart(tonight: Tonight, blocks: bool) -> List[List[str]]:
    """A row for each coming night: the day, a bar, bytes, time, fulls."""
    outlook = tonight.plan.outlook
    top = max((one.load.get(BYTES, 0.0) for one in outlook), default=0.0) + tonight.between
    limit = tonight.view.limits.get(BYTES)
    if limit is not None and limit.amount < 4 * top:
        top = max(top, limit.amount)
    rows = []
    for one in outlook:
        size = one.load.get(BYTES, 0.0) + tonight.between
        bars = bar(size / top if top else 0.0, WIDTH, blocks)
        rows.append([
            day(one.night, tonight.view.night), bars, text.size(size), text.duration(seconds(tonight, one)),
            fulls_told(one.fulls),
        ])  # fmt: skip
    return rows


def bar(share: float, width: int, blocks: bool) -> str:
    """A bar of a share of width, by eighths of a column where the terminal has them."""
    share = min(max(share, 0.0), 1.0)
    if not blocks:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")


def fulls_told(names: Sequence[str]) -> str:
    """`2 fulls: web1:etc, web1:home`, cut where it gets long."""
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{len(names)} full{'s' if len(names) > 1 else ''}: {shown}"


# one source in sentences


def why(
    tonight: Tonight, name: str, off: Optional[estimates.Accuracy] = None, before: Sequence[Mapping[str, Any]] = ()
) -> List[str]:
    """All about one unit. off: how far estimates of it were off. before: what the last run gave up, of all units."""
    one = tonight.ones[name]
    unit = tonight.units[name]
    planned = next(
        (each for each in tonight.planned if unit_id(each.client, each.source, each.segment) == name), None
    )  # fmt: skip
    night, wish, choice = tonight.view.night, unit.wish, tonight.choices.get(name)
    given = [_given(tonight, each) for each in tonight.plan.given_up if each.unit == name]
    if planned is None:
        lines = [f"{name} is not dumped tonight{_why_not(unit, one, tonight)}."]
        lines += [f"{interim_line(_interim(tonight, each))}." for each in tonight.interim if each.unit == name]
    else:
        level = "a full" if planned.level == 0 else f"level {planned.level}"
        lines = [f"{name} gets {level} tonight: {worded(planned.reason)}."]
        lines += [f"It is to hold what changed since {planned.base}."] if planned.base else []
    lines += [_history(unit, one, night), _costs(tonight, unit, one)]
    if off is not None and off.used is not None:
        told = f"Estimates of it were {off.used:.0%} off, the median of its newest dumps"
        lines.append(told + ("." if off.history is None else f"; by its history alone {off.history:.0%}."))
    lines += [f"Nothing can build on its newest full: {text.escape(unit.broken)}."] if unit.broken else []
    lines.append(_wished(one, wish, tonight.view.rules.server_grace))
    if choice is not None and choice.due is not None and choice.level:
        lines.append(f"Its next full is due by {day(choice.due, night)} at the latest.")
    planned_for = next((each.night for each in tonight.plan.outlook if name in each.fulls), None)
    if planned_for is not None and (planned is None or planned.level):
        lines.append(f"It is planned for {day(planned_for, night)}{_moved(choice, planned_for)}.")
    lines += [f"Given up: {line.partition(' ')[2]}." for line in given_up_lines(given)]
    mine = [each for each in before if unit_id(each["client"], each["source"], each.get("segment") or "") == name]
    lines += [f"Given up by the last run: {line.partition(' ')[2]}." for line in given_up_lines(mine)]
    if not unit.reachable:
        lines.append(f"Client {one.source.client} could not be reached when it was last asked.")
    return lines


def _why_not(unit: Unit, one: One, tonight: Tonight) -> str:
    timing = one.source.timing
    if timing.strategy == "skip":
        return ": strategy skip"
    if tonight.view.weekday not in timing.days:
        return f": it asks for {nights.shown_days(timing.days)}"
    if timing.own:
        return ": it has a schedule of its own, and nothing of it is due now"
    if unit.last_full is None:
        return ": it waits for its first full, so that not all come at once"
    return ""


def _history(unit: Unit, one: One, night: int) -> str:
    if unit.last_full is None:
        return "It has no full yet."
    age = night - unit.last_full
    told = "tonight" if age <= 0 else "last night" if age == 1 else f"{age} nights ago"
    chain = f", and a restore of its newest dump reads {unit.bases[-1].chain}" if unit.bases else ""
    known = f"{len(one.past)} dump{'s are' if len(one.past) > 1 else ' is'} known"
    return f"Its last good full was made {told} ({day(unit.last_full)}); {known}{chain}."


def _costs(tonight: Tonight, unit: Unit, one: One) -> str:
    expected = tonight.expected[one.id]
    how = {"walk": "by a look at the client", "history": "by its past dumps", "default": "by default"}[expected.how]
    told = [f"a full would take {text.size(unit.full or 0.0)}"]
    for base, (level, size) in zip(unit.bases, sorted(expected.levels.items())):
        told.append(f"level {level} {text.size(size)} on {'the full' if base.level == 0 else f'level {base.level}'} "
                    f"of {day(base.night)} ({base.chain + 1} dumps to restore)")  # fmt: skip
    because = f", since {expected.why}" if expected.why else ""
    return f"Expected {how}{because}: {'; '.join(told)}."


def _wished(one: One, wish: Any, server_grace: Optional[int]) -> str:
    told = [f"a full within {_nights(wish.cycle)}"]
    if wish.strategy == "standard" and not wish.own:
        of_server = wish.cycle - 1 if server_grace is None else server_grace
        told.append(f"up to {_nights(wish.grace)} later after its client was away and {_nights(of_server)} after the "
                    "server was")  # fmt: skip
    if wish.strategy != "standard":
        told.append(f"strategy {wish.strategy}")
    if wish.max_chain is not None:
        told.append(f"at most {wish.max_chain} dumps to restore")
    if wish.priority != 1:
        told.append(f"priority {({0: 'low', 2: 'high'}).get(wish.priority, wish.priority)}")
    if len(wish.days) < 7:
        told.append(f"on {nights.shown_days(wish.days)} only")
    timing = one.source.timing
    if timing.full:
        told.append(f"fulls of its own {timing.full}")
    if timing.incremental:
        told.append(f"incrementals of its own {timing.incremental}")
    return f"It asks for {', '.join(told)}."


def _nights(count: int) -> str:
    return f"{count} night{'' if count == 1 else 's'}"


def _moved(choice: Any, planned_for: int) -> str:
    if choice is None or choice.due is None or planned_for == choice.due:
        return ""
    apart = abs(choice.due - planned_for)
    word = "before" if planned_for < choice.due else "after"
    return f", {apart} night{'s' if apart > 1 else ''} {word} it is due, so that the nights are alike"
