"""`stowage status`: what runs now, how far and how fast, else how the last run ended.

Here live the words and the table; what is known is made in app/at_work.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

from .. import clock, text
from ..errors import StowageError
from . import _output, _progress

_SHARED = ("dumping", "copying")  # phases of which it is known how much is still to come
_OVER = ("done", "failed", "verified", "skipped")
WIDTH = 80  # columns where there is no terminal
FEW = 20  # dumps that are over are shown one by one up to so many
EVERY = 1.0  # seconds between two looks
PLAIN = 10.0  # seconds between two words where there is no terminal
GAP = "  "


def add(parser: argparse.ArgumentParser) -> None:
    """--watch."""
    parser.add_argument("--watch", action="store_true", help="go on until what runs has ended, or ^C")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """One line when nothing runs, a table when something does."""
    engine = open_engine()
    seen = engine.status()
    if args.watch and seen["running"]:
        try:
            seen = _watch(engine, seen, args.json)
        except KeyboardInterrupt:  # the way to leave it
            return _output.Answer({"running": None, "killed": None, "waiting": [], "headline": "left"}, ["left"])
    if seen["running"]:
        return _output.Answer(seen, _told(seen), ["stowage status --watch"])
    report = engine.report()
    killed = seen["killed"]
    return _output.Answer(
        {**report.as_dict(), **seen},
        [*_killed(killed), report.headline],
        ["stowage run"] if killed or not report.run else ["stowage report"],
        "WARN" if killed and report.status == "OK" else report.status,
        report.warnings,
    )


def _watch(engine: Any, seen: Dict[str, Any], as_json: bool) -> Dict[str, Any]:
    """Shows again and again what runs; what is seen when nothing does any more."""
    place = _Place() if sys.stdout.isatty() and not as_json else None
    told = time.monotonic() - PLAIN
    while seen["running"]:
        if place is not None:
            place.show(_told(seen, *shutil.get_terminal_size((WIDTH, 24))))
        elif time.monotonic() - told >= PLAIN:
            told = time.monotonic()
            if as_json:
                _output.give(_output.Answer(seen), True, False)
            else:
                lines = [*_told(seen), ""]
                for line in lines[: lines.index("")]:  # the whole of it; the table is for terminals
                    _output.line(line)
        time.sleep(EVERY)
        try:
            seen = engine.status()
        except StowageError as error:
            _output.say(_output.one_line(error))
    return seen


class _Place:
    """The lines on a terminal that are painted over."""

    def __init__(self) -> None:
        self._count = 0

    def show(self, lines: List[str]) -> None:
        """In the place of those before."""
        if self._count:
            _output.write(f"\x1b[{self._count}F\x1b[J")
        for line in lines:
            _output.line(line)
        self._count = len(lines)


def _killed(killed: Optional[Dict[str, Any]]) -> List[str]:
    if not killed:
        return []
    dumps = [one for one in killed.get("dumps", ()) if not one.get("target")]
    done = sum(1 for one in dumps if one.get("phase") == "done")
    when = clock.local(int(killed["heartbeat_ns"]))
    name = text.escape(str(killed.get("run")))
    return [f"WARN run {name} was killed (process {killed['pid']}), last seen at {when}: {done} of {len(dumps)} dumps "
            "were done; the next run goes on"]  # fmt: skip


def _told(seen: Dict[str, Any], width: int = WIDTH, height: int = 0) -> List[str]:
    """All of it in so many columns; height: of a terminal, 0: any."""
    head, body = _head(seen["running"]), _body(seen["running"], width)
    for one in seen["waiting"]:
        since, command = clock.local(clock.parse_iso(one["since"])), one["command"]
        who = f" of {one['user']}" if one["user"] else ""
        head.append(f"waits for its end since {since}: process {one['pid']}{who}" + (f": {command}" if command else ""))
    lines = [*head, *([""] if body else []), *body]
    if height and len(lines) > height - 2:
        lines = [*lines[: height - 3], f"... {len(lines) - height + 3} more lines"]
    return [line if len(line) <= width else line[: width - 2] + ".." for line in lines]


def _running(now: Dict[str, Any], width: int = WIDTH) -> List[str]:
    """All that is known of the run at work."""
    return [*_head(now), *_body(now, width)]


def _head(now: Dict[str, Any]) -> List[str]:
    """The run as a whole."""
    shown = [one for one in now.get("dumps", ()) if isinstance(one, dict)]
    dumps = [one for one in shown if not one.get("target")]
    done = sum(1 for one in dumps if one.get("phase") in ("done", "failed", "verified"))
    begun = now.get("begun_ns")
    if isinstance(begun, int):
        took = text.duration(max(0.0, time.time() - begun / 1e9))
        lines = [f"run {now.get('run')} is at work for {took} (pid {now.get('pid')}): {done} of {len(dumps)} done"]
    elif now.get("pid"):
        lines = [f"{now.get('what')} is at work since {clock.local(clock.parse_iso(now['since']))} (pid {now['pid']})"]
    else:
        lines = ["a run is at work"]
    if now.get("silent"):
        lines[0] += f"; no sign of life for {text.duration(now['silent'])}"
    if now.get("user") or now.get("command"):
        lines.append(f"by {now.get('user') or '?'}: {now.get('command') or '?'}")
    return [text.escape(line) for line in [*lines, *_together(now)]]


def _body(now: Dict[str, Any], width: int) -> List[str]:
    """Dump by dump, copy by copy."""
    shown = [one for one in now.get("dumps", ()) if isinstance(one, dict)]
    rows, more = _rows(shown, sum(not one.get("target") for one in shown) <= FEW)
    return [text.escape(line) for line in [*_table(rows, width), *more]]


def _together(now: Dict[str, Any]) -> List[str]:
    """A line for all dumps, and one for all copies."""
    lines = []
    if "at_work" in now:
        failed = f", {now['failed']} failed" if now["failed"] else ""
        told = [f"{now['at_work']} at work, {now['waiting']} wait{failed}"]
        told += [text.size(now["bytes"]) + (f" of about {text.size(now['expected'])}" if now.get("expected") else "")]
        told += [f"{text.size(now['rate'])}/s"] if now.get("rate") is not None else []
        if now.get("not_before_ns") and not now.get("ends_ns"):
            told.append(f"end at {_clock(now['not_before_ns'])} or later ({now['unknown']} unknown)")
        elif now["at_work"] or now["waiting"]:
            told.append(_end(now, "ends_ns", "not_before_ns"))
        lines += _wrapped("dumps   ", told)
    copies = now.get("copies") or {}
    made = [f"{now['copied']} made"] if now.get("copied") else []
    if copies.get("at_work") or copies.get("waiting"):
        told = [f"{copies['at_work']} at work, {copies['waiting']} wait", *made, f"{text.size(copies['left'])} left"]
        told += [f"{text.size(copies['rate'])}/s"] if copies.get("rate") is not None else []
        told.append(_end(copies, "ends_ns", ""))
        lines += _wrapped("copies  ", told)
        waits: Dict[Tuple[str, str], int] = {}
        for one in copies.get("queue", ()):
            if one.get("why"):
                key = (str(one.get("target")), str(one["why"]))
                waits[key] = waits.get(key, 0) + 1
        lines += [f"copies  to {target}: {count} wait: {why}" for (target, why), count in sorted(waits.items())]
    elif made:
        lines += _wrapped("copies  ", made)
    if now.get("run_ends_ns") or now.get("run_not_before_ns"):
        lines.append(f"in all  {_end(now, 'run_ends_ns', 'run_not_before_ns')}, copies included")
    return lines


def _end(now: Dict[str, Any], about: str, at_least: str) -> str:
    """When something ends, as far as anybody knows."""
    if now.get(about):
        return f"end about {_clock(now[about])}"
    return f"end at {_clock(now[at_least])} or later" if now.get(at_least) else "end -"


def _wrapped(name: str, told: List[str]) -> List[str]:
    """In lines of 80 columns, whatever the terminal has: the end stands last, and is not to be cut off."""
    lines = [name + told[0]]
    for word in told[1:]:
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines[-1] += ";"
            lines.append(" " * len(name) + word)
        else:
            lines[-1] += f"; {word}"
    return lines


def _rows(shown: List[Dict[str, Any]], all_of_them: bool) -> Tuple[List[Tuple[str, str, List[str]]], List[str]]:
    """(name, what it does, figures) of what is worth a row; a line for what is not."""
    rows, turns = [], 0
    for one in sorted(shown, key=lambda one: (one.get("phase") in _OVER, one.get("phase") == "waiting")):
        phase, over = str(one.get("phase", "")), one.get("phase") in _OVER
        why, when = str(one.get("why") or ""), ""
        if isinstance(one.get("not_before_ns"), int) and one["not_before_ns"]:
            when = f", again at {_progress.begins(one)}" if why else f"begins at {_progress.begins(one)}"
        if phase == "waiting" and not why and not when and not all_of_them:
            turns += 1
            continue
        if over and phase != "failed" and not all_of_them and not one.get("target"):
            continue
        where = f" -> {one['target']}" if one.get("target") else ""
        name = f"{one.get('client')}:{one.get('source')}{where}"
        tries = f", try {one['tries']}" if isinstance(one.get("tries"), int) and one["tries"] > 1 else ""
        if why or when:
            rows.append((name, why, [when + tries]))
            continue
        count, total = int(one.get("bytes") or 0), one.get("total")
        share = f"{min(99, 100 * count // total)} %" if total and phase in _SHARED else ""
        rate = ends = ""
        if phase in _SHARED:
            rate = f"{text.size(one['rate'])}/s" if one.get("rate") is not None else "-"
            ends = _clock(one["ends_ns"]) if one.get("ends_ns") else "-"
        size = "" if phase == "waiting" and not count else text.size(count)
        rows.append((name, phase + tries, [size, share, rate, ends]))
    return rows, [f"{turns} more wait for their turn"] if turns else []


def _table(rows: List[Tuple[str, str, List[str]]], width: int) -> List[str]:
    """Figures to the right; what waits tells its reason in their place. Clean in 80 columns."""
    if not rows:
        return []
    head = ("source", "phase", ["size", "of", "speed", "ends"])
    figures = [each for _name, _what, each in [head, *rows] if len(each) == 4]
    widths = [max(len(each[column]) for each in figures) for column in range(4)]
    right = sum(widths) + 4 * len(GAP)
    phase = max(len(what) for _name, what, each in [head, *rows] if len(each) == 4)
    most = max(16, width - right - phase - len(GAP))
    names = min(most, max(8, *(len(name) for name, _what, _each in rows)))
    lines = []
    for name, what, each in [head, *rows]:
        if len(name) > names:  # its end says most: the source, the target
            name = name[: names // 3] + ".." + name[len(name) - (names - names // 3 - 2) :]
        line = f"{name:{names}}{GAP}"
        if len(each) == 4:
            line += f"{what:{phase}}" + "".join(f"{GAP}{cell:>{wide}}" for cell, wide in zip(each, widths, strict=True))
        else:  # why it waits, and when it goes on, which is not to be cut off
            room = max(8, width - names - len(GAP) - len(each[0]))
            line += (what if len(what) <= room else what[: room - 2] + "..") + each[0]
        lines.append(line.rstrip())
    return lines


def _clock(ns: int) -> str:
    """The time of day; with the day when that is neither today nor the coming night."""
    if ns - clock.now_ns() > 20 * 3600 * clock.NS:
        return time.strftime("%a %H:%M", time.localtime(ns // clock.NS))
    return clock.local(ns)[-5:]
