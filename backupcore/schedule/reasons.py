"""Why a unit gets what it gets, in words.

Here live the sentences of Choice.reason and GivenUp.why; nights stand in them as `night 123456`, sizes in GB and the
like, days by name. Nothing here decides.
"""

from __future__ import annotations

from backupcore.schedule.horizon import Horizon
from backupcore.schedule.items import Item
from backupcore.schedule.records import View

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def of_full(item: Item, view: View, horizon: Horizon, why: str) -> str:
    """Why a full tonight. why: what made the planner take it: due, planned, cheap, valley."""
    night, unit = view.night, item.unit
    if item.note:
        return f"full: {item.note}"
    if item.broken:
        return f"full: {unit.broken or 'there is nothing an incremental could build on'}"
    if item.first:
        return "the first full"
    early = item.deadline - night
    if item.waits:
        return f"full: was due on night {item.due}, {_excuse(item)}"
    if early <= 0:
        return f"full: due tonight, {count(night - unit.last_full, 'night')} after the last"
    if why == "cheap":
        return f"full: takes {size(item.size)}, an incremental {size(item.rungs[item.rung][1])}"
    moved = f"full: due on night {item.due}, taken {count(early, 'night')} earlier"
    if why == "flaky":
        return f"{moved}, since its client is here tonight and on {item.presence.share():.0%} of nights"
    k = item.deadline - night
    if k < horizon.nights and horizon.mean > 0:
        over = horizon.unmoved[k] / horizon.mean
        if over > 1.005:
            day = DAYS[(view.weekday + k) % 7]
            return f"{moved}, since {day} would have {over:.3g} times the mean night"
    return f"{moved}, to keep the coming nights alike"


def of_level(item: Item, level: int, taken: float, best: int, view: View) -> str:
    """Why an incremental of this level tonight."""
    if item.note:
        return item.note
    base = [base for base in item.unit.bases if base.level < level][-1]
    nights = max(1, view.night - base.night)
    text = f"level {level}: {count(nights, 'night')} of changes, {size(taken)}"
    others = [(one, bytes_) for one, bytes_ in item.rungs if one < level]
    if level != best:
        text += f"; level {best} would be best in the long run, but does not fit tonight"
    elif others:
        text += f" (level {others[-1][0]}: {size(others[-1][1])})"
    if item.at:
        text += f"; full planned for night {view.night + item.at}"
    return text


def waiting(item: Item) -> str:
    """Why a first or late full is not tonight."""
    if item.unit.broken:
        return f"{item.unit.broken}: new fulls of all such sources are spread so that no night stands out"
    if item.first:
        return "first fulls are spread so that no night stands out"
    return f"was due on night {item.due}, {_excuse(item)}; tonight has no room for it beside what must be"


def _excuse(item: Item) -> str:
    trace = item.trace
    if trace.why == "client":
        return "when its client was away"
    if trace.why == "server":
        return "when the server was down"
    if trace.why == "night":
        return "when that night broke off"
    if trace.why == "failed":
        return "when it was not made"
    if trace.why == "cycle":
        return "by a cycle that is new"
    return "and not made"


def size(count_: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_ < 999.5:
            return f"{count_:.3g} {unit}"
        count_ /= 1000
    return f"{count_:.4g} TB"


def count(number: int, what: str) -> str:
    """1 night, 2 nights."""
    return f"{number} {what}" + ("" if number == 1 else "s")
