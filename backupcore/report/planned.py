"""What a report says of its night's plan: what was given up and why, fulls that are late, how far estimates were off.

Here live pure functions over the summary that a run keeps of its plan (app/plan_told.py makes it); nothing here plans.
"""

from __future__ import annotations

from datetime import date
from typing import Any, Dict, Iterable, List, Mapping, Optional

from .. import text

WHAT = {
    "full": "its full waits", "first": "waits for its first full", "level": "a deeper level than the best one",
    "incremental": "is not dumped", "interim": "gets no interim dump",
}  # fmt: skip
TROUBLE = ("full", "incremental")  # what somebody should look at; the others are the planner's own business
SHOWN = 10
OFF = 0.2  # estimates that are off by more are worth a line


def shown_day(iso: str) -> str:
    """`Mon 23 Nov` of a date."""
    return date.fromisoformat(iso).strftime("%a %d %b")


def unit_of(one: Mapping[str, Any]) -> str:
    """`client:source`, `client:source/segment`; runs of old versions say no segment."""
    segment = one.get("segment")
    return f"{one['client']}:{one['source']}" + (f"/{segment}" if segment else "")


def given_up_lines(given: Iterable[Mapping[str, Any]]) -> List[str]:
    """A line for each thing that was given up."""
    lines = []
    for one in given:
        until = f" until {shown_day(one['until'])}" if one.get("until") else ""
        lines.append(f"{unit_of(one)} {WHAT.get(one['what'], one['what'])}{until}: {one['why']}")
    return lines


def interim_line(one: Mapping[str, Any]) -> str:
    """What becomes of a source that waits for its first full, by an entry of a plan's `interim`."""
    until = f", planned for {shown_day(one['until'])}" if one.get("until") else ""
    name = f"{one['client']}:{one['source']}"
    if one["dumped"]:
        return f"{name} gets an interim dump of its recent files, since it waits for its first full{until}"
    return f"{name} gets no interim dump while it waits for its first full{until}: {one['why']}"


def of(summary: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """What a run kept of its plan, None when that is nothing one could read."""
    plan = summary.get("plan")
    if not isinstance(plan, dict):
        return None
    try:
        given_up_lines(plan["given_up"])
        _no_interim(plan)
        _late(plan)
        _estimates(plan)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # of another version
    return plan


def notes(plan: Optional[Mapping[str, Any]]) -> List[str]:
    """What somebody should look at, each as `WHAT -> NEXT STEP`."""
    if plan is None:
        return []
    given = [one for one in plan["given_up"] if one["what"] in TROUBLE]
    found = [
        f"{line} -> stowage plan --why {one['client']}:{one['source']}"
        for one, line in zip(given, given_up_lines(given))
    ]
    rest = len(found) - SHOWN
    return found[:SHOWN] + ([f"and {rest} more that did not fit -> stowage plan"] if rest > 0 else [])


def lines(plan: Optional[Mapping[str, Any]]) -> List[str]:
    """The rest, for the end of a report."""
    if plan is None:
        return []
    quiet = [one for one in plan["given_up"] if one["what"] not in TROUBLE]
    told = given_up_lines(quiet[:SHOWN])
    if len(quiet) > SHOWN:
        told.append(f"and {len(quiet) - SHOWN} more that wait or go deeper")
    return told + _no_interim(plan) + _late(plan) + _estimates(plan)


def waits(plan: Optional[Mapping[str, Any]], client: str, source: str) -> str:
    """Until when a source waits for its first full, '' when the plan does not say."""
    for one in plan["given_up"] if plan else ():
        if (one["client"], one["source"], one["what"]) == (client, source, "first") and one.get("until"):
            return f", planned for {shown_day(one['until'])}"
    return ""


def _no_interim(plan: Mapping[str, Any]) -> List[str]:
    """A line for each source that waits for its first full and got nothing."""
    told = [interim_line(one) for one in plan.get("interim", ()) if not one["dumped"]]
    return told[:SHOWN] + ([f"and {len(told) - SHOWN} more without an interim dump"] if len(told) > SHOWN else [])


def _late(plan: Mapping[str, Any]) -> List[str]:
    late = plan["late"]
    if not late:
        return []
    named = [
        f"{unit_of(one)} {one['nights']} night{'s' if one['nights'] > 1 else ''}"
        + (f" ({one['why']})" if one["why"] else "")
        for one in late[:SHOWN]
    ]
    more = f" and {plan['late_count'] - SHOWN} more" if plan["late_count"] > SHOWN else ""
    return [f"fulls that are late, within their grace or without a place: {', '.join(named)}{more}"]


def _estimates(plan: Mapping[str, Any]) -> List[str]:
    found = plan["estimates"]
    told = [text.escape(str(note)) for note in found["notes"][:SHOWN]]
    if found["error"] is not None and found["of"] >= 3 and found["error"] > OFF:
        told.append(f"sizes were {found['error']:.0%} off what was expected (median of {found['of']} dumps)")
    return told
