"""What holds for one source, from where, and what becomes of its next dumps: where each goes, when, and why.

Here lives the putting together; nothing here decides: which dumps are wanted is catalog/wants.py, which copies are due
stage/wanted.py, the nights are the planner's, promises report/promised.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .. import clock, hours, ids, text
from ..catalog import wants
from ..catalog.records import CopyRow, DumpRow
from ..schedule import nights
from ..settings import CopyRule, Source
from . import check_copies, promises
from .engine import Engine

AHEAD = 14  # nights
DEFAULT = "default"
_LEVELS = {"full": 0, "incremental": 1}


def explain(engine: Engine, client: str, name: str) -> Dict[str, Any]:
    """All about the copies of one source, JSON-ready. Raises RequestError."""
    (source,) = engine.select([client], [name])
    rows = engine.catalog.dumps(client, name)
    copies: Dict[str, Dict[str, CopyRow]] = {}
    for row in engine.catalog.copies(source=(client, name)):
        copies.setdefault(row.dump, {})[row.target] = row
    coming = list(_coming(engine, source))
    return {
        "client": client, "source": name, "policy": source.policy.name,
        "settings": [{"key": key, "value": value, "from": where} for key, value, where in _settings(engine, source)],
        "targets": _targets(engine, source),
        "without": [{"target": target, "from": source.origins.get(f"copies.{target}.dumps", "")}
                    for target in engine.settings.targets if source.rule(target) is None],
        "coming": _goes(source, rows, copies, coming),
        "holding": _holding(source),
        "warnings": list(check_copies.of_source(source, bool(engine.settings.targets))),
    }  # fmt: skip


# what holds


def _settings(engine: Engine, source: Source) -> List[Tuple[str, str, str]]:
    timing, policy = source.timing, source.policy
    days = "daily" if timing.days == hours.ALL else hours.shown_days(timing.days)
    found = [
        ("policy", policy.name), ("cycle", _days(timing.cycle)), ("grace", _days(timing.grace)),
        ("priority", str(timing.priority)), ("strategy", timing.strategy), ("days", days),
        ("earliest", "" if timing.earliest is None else f"{timing.earliest // 60:02d}:{timing.earliest % 60:02d}"),
        ("schedule", ", ".join(f"{kind}: {one}" for kind, one in (("full", timing.full), ("incremental",
                               timing.incremental)) if one)),
        ("max_chain", "" if timing.max_chain is None else str(timing.max_chain)), ("rpo", text.duration(policy.rpo)),
        ("compress", policy.compress), ("encrypt", policy.encrypt), ("part_size", text.size(policy.part_size)),
        ("resume", policy.resume),
        ("holding", source.holding), ("keep_on_holding", str(policy.keep_on_holding)),
        ("min_copies", "all that are wanted" if source.min_copies is None else str(source.min_copies)),
    ]  # fmt: skip
    told = [(key, value or "none", _from(engine, source, key)) for key, value in found]
    for rule in source.copies:
        for key, value in _of_rule(rule):
            where = source.origins.get(f"copies.{rule.target}.{key}", "")
            if key == "window":
                where = where or source.origins.get(f"copies.{rule.target}.days", "")
            told.append((f"copies.{rule.target}.{key}", value, where or DEFAULT))
    return told


def _from(engine: Engine, source: Source, key: str) -> str:
    if key in source.origins:
        return source.origins[key]
    loc = {"cycle": ("cycle", "days")}.get(key, ("cycle", key))
    return engine.configuration.place(*loc) if loc in engine.configuration.places else DEFAULT


def _days(number: int) -> str:
    return f"{number} day" + ("" if number == 1 else "s")


def _of_rule(rule: CopyRule) -> List[Tuple[str, str]]:
    made_on = "any night" if rule.made_on is None else hours.shown_days(rule.made_on)
    return [
        ("dumps", rule.dumps), ("every", rule.every or "each"), ("made_on", made_on),
        ("window", hours.shown_windows(rule.windows)), ("rate", hours.shown_rates(rule.rate)),
        ("after", rule.after or "none"), ("keep", kept(rule)), ("self_contained", str(rule.self_contained).lower()),
        ("priority", str(rule.priority)), ("lock", text.duration(rule.lock) if rule.lock else "none"),
    ]  # fmt: skip


def kept(rule: CopyRule) -> str:
    """`last 4, weekly 8`, or for ever."""
    return ", ".join(f"{word} {number}" for word, number in rule.keep.items()) or "for ever"


def _holding(source: Source) -> str:
    if not source.copies:
        return "no copy is asked for: its images stay on the holding disk"
    if source.holding == "never":
        return "dumps go straight to their targets while they run, whatever the windows; no holding disk has them"
    all_of_them = len(source.copies)
    least = all_of_them if source.min_copies is None else min(source.min_copies, all_of_them)
    when = "all of its copies are" if least == all_of_them else f"{least} of its copies {'is' if least == 1 else 'are'}"
    newer = source.policy.keep_on_holding
    behind = f" and {newer} newer {'image is' if newer == 1 else 'images are'} there" if newer else ""
    return f"an image leaves the holding disk when {when} verified{behind}; one that goes to no target stays"


# how its targets stand


def _targets(engine: Engine, source: Source) -> List[Dict[str, Any]]:
    from ..catalog import slim
    from ..report import promised
    from ..stage import wanted

    one = replace(engine.settings, clients={source.client: replace(
        engine.settings.clients[source.client], sources={source.name: source})})  # fmt: skip
    known = promises.since(one)
    rows = slim.read(engine.catalog, source=(source.client, source.name))
    looked = promised.look(one, rows, {**dict.fromkeys(one.targets, 1), **known}, clock.now_ns())
    stands = {stand.target: stand for stand in looked}
    due = wanted.due(one, engine.catalog, sources=[(source.client, source.name)], waiting=True)
    found = []
    for rule in source.copies:
        seconds = promised.promise(source, rule)
        stand = stands.get(rule.target)
        to_make = [job for job in due if job.row.target == rule.target]
        opens = rule.windows.opens(clock.now_ns()) if rule.windows is not None else None
        found.append({
            "target": rule.target, "promise": None if seconds is None else round(seconds),
            "age": None if stand is None or stand.age is None else round(stand.age),
            "kept": stand.kept if stand is not None and rule.target in known else None, "keep": kept(rule),
            "due": {"copies": len(to_make), "bytes": sum(job.dump.stored_size for job in to_make),
                    "oldest": clock.iso(to_make[0].dump.begun_ns) if to_make else None,
                    "opens": clock.iso(opens) if opens is not None else None},
        })  # fmt: skip
    return found


# what comes


def _coming(engine: Engine, source: Source) -> Any:
    """(night, full or incremental) of the next nights, as the planner sees them now."""
    tonight = engine.plan()
    own = [unit for unit, one in tonight.ones.items() if one.key == (source.client, source.name)]
    levels = [one.level for one in tonight.planned if (one.client, one.source) == (source.client, source.name)]
    choices = [tonight.choices[unit] for unit in own if unit in tonight.choices]
    night, timing = tonight.view.night, source.timing
    if timing.strategy == "skip":
        return
    parsed = nights.parse_own(timing.full, timing.incremental)
    scheduled = set(parsed.fulls(night, AHEAD)) if timing.full else set()
    full = min((one.next_full for one in choices if one.next_full is not None), default=None)
    if full is None:
        full = min((one.due for one in choices if one.due is not None), default=None)
    for at in range(night, night + AHEAD):
        if at == night and levels:
            what = "full" if min(levels) == 0 else "incremental"
        elif timing.own:
            what = "full" if at in scheduled else "incremental" if _is_on(parsed, at) else ""
        elif nights.weekday_of(at) not in timing.days or at == night:
            continue
        else:
            what = "full" if timing.strategy == "full" or full is not None and at >= full else "incremental"
        if what == "full" and full is not None and at >= full:
            full = at + timing.cycle
        if what:
            yield at, what


def _is_on(own: nights.Own, night: int) -> bool:
    begin, end = nights.begin_of(night), nights.begin_of(night + 1)
    return own.incremental is not None and own.incremental.latest(begin - 1, end - 1) is not None


def _goes(
    source: Source, rows: List[DumpRow], copies: Mapping[str, Mapping[str, CopyRow]], coming: List[Tuple[int, str]]
) -> List[Dict[str, Any]]:
    """The coming dumps with where each goes: as if all of them came, and were copied."""
    minutes = source.timing.earliest if source.timing.earliest is not None else 22 * 60
    last = max((row.counter for row in rows), default=0)
    future = []
    for number, (night, what) in enumerate(coming):
        begun = nights.at(night, minutes)
        future.append(DumpRow(
            id=f"next {number}", client=source.client, source=source.name, segment="", type=source.type, path="",
            level=_LEVELS[what], counter=last + 1 + number, begun_ns=begun, ended_ns=begun, base=None, previous=None,
            run="", codec="", archive_size=0, stored_size=0, entries=0, files=0, holding="/", manifest_sha256="",
        ))  # fmt: skip
    # a source in segments makes one dump of each: the first of them stands for all
    known = [replace(row, segment="") for row in rows if row.segment != ids.INTERIM]
    where = wants.wanted(source, [*known, *future], copies)
    found = []
    for row, (night, what) in zip(future, coming):
        goes = {rule.target: _one(rule, row, rule.target in where[row.id], source) for rule in source.copies}
        found.append({"night": nights.day_of(night).isoformat(), "dump": what, "targets": goes})
    return found


def _one(rule: CopyRule, row: DumpRow, goes: bool, source: Source) -> Dict[str, Any]:
    if not goes:
        return {"goes": False, "why": _why_not(rule, row), "from": None}
    opens: Optional[int] = row.begun_ns
    if rule.windows is not None:
        opens = rule.windows.opens(row.begun_ns)
    why = f"from {hours.shown(opens)}" if rule.windows is not None and opens is not None else "once it is made"
    if rule.after and source.rule(rule.after) is not None:
        why += f", after {rule.after}"
    return {"goes": True, "why": why, "from": clock.iso(opens) if opens is not None else None}


def _why_not(rule: CopyRule, row: DumpRow) -> str:
    if not rule.takes(row.level):
        return f"dumps: {rule.dumps}"
    if rule.made_on is not None and hours.weekday_of(wants.night_of(row)) not in rule.made_on:
        return f"made_on: {hours.shown_days(rule.made_on)}"
    return f"this {rule.every} has one"
