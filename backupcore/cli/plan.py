"""`stowage plan`: tonight's level of each source and why, and the nights to come."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, List

from .. import text
from ..errors import RequestError
from . import _output, _progress

SHOWN = 10


def add(parser: argparse.ArgumentParser) -> None:
    """--why, --estimate, --force, and the selection of run."""
    parser.add_argument("--why", metavar="SOURCE", help="all about this source, as CLIENT:SOURCE or SOURCE")
    parser.add_argument("--client", metavar="C", action="append", default=[], help="only this client; may be repeated")
    parser.add_argument(
        "--source", metavar="S", action="append", default=[], help="only sources of this name; may be repeated"
    )
    parser.add_argument("--level", metavar="N", type=int, choices=range(10), help="as if this level were asked for")
    parser.add_argument(
        "--estimate", metavar="WHAT", nargs="?", const="all", choices=("all", "new"),
        help="ask the clients how large the dumps would be; `new`: only where too little is known",
    )  # fmt: skip
    parser.add_argument(
        "--force", metavar="SOURCE[=LEVEL]", action="append", default=[],
        help="the next run makes this level of CLIENT:SOURCE, a full when none is said; `=none` takes it back",
    )  # fmt: skip


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Tonight's levels and the coming nights."""
    if args.why and args.source:
        raise RequestError("--why and --source together", "stowage plan --why CLIENT:SOURCE")
    engine = open_engine()
    said = [engine.force(*_forced(one)) for one in args.force]
    asked = engine.select(args.client, [args.why] if args.why else args.source)
    # --why explains what the night does; --client and --source show what a run with these words would do
    chosen = asked if args.client and not args.why or args.source else None
    with _progress.progress(args.json) as progress:
        tonight = engine.plan(chosen, args.level, estimate=args.estimate, progress=progress)
    from ..app import plan_told

    off = engine.accuracy() if args.json or args.why else {}
    data = {**plan_told.as_dict(tonight, off), "gave_up": engine.gave_up()}
    lines: List[str] = [text.escape(line) for line in said]
    if args.why:
        keys = {(one.client, one.name) for one in asked}
        data["why"] = {unit: plan_told.why(tonight, unit, off.get(unit), data["gave_up"])
                       for unit, one in tonight.ones.items() if one.key in keys}  # fmt: skip
        data["sources"] = [one for one in data["sources"] if (one["client"], one["source"]) in keys]
        for told in data["why"].values():
            lines += ([""] if lines else []) + told
    else:
        lines += _tables(tonight, data, plan_told)
    lines += [f"WARN {note}" for note in data["estimates"]["notes"]]
    lines += [f"WARN {text.escape(tonight.fault)}"] if tonight.fault else []
    return _output.Answer(data=data, lines=lines, next=["stowage run"] if tonight.ones else ["stowage check"])


def _tables(tonight: Any, data: Any, plan_told: Any) -> List[str]:
    if not tonight.ones:
        return ["no source is configured"]
    lines = _output.table(
        ("client", "source", "level", "size", "time", "full due", "why"), plan_told.table_rows(tonight)
    ) or ["nothing is dumped tonight"]  # fmt: skip
    from ..report import planned

    given = planned.given_up_lines(one for one in data["given_up"] if one["what"] != "first")
    given += folded(planned.given_up_lines(one for one in data["given_up"] if one["what"] == "first"),
                    "that wait for their first full")  # fmt: skip
    given += folded([planned.interim_line(one) for one in data["interim"] if not one["dumped"]],
                    "that get no interim dump")  # fmt: skip
    lines += ["", *given] if given else []
    before = planned.given_up_lines(one for one in data["gave_up"] if one["what"] in planned.TROUBLE)
    lines += ["", "the last run gave up:", *before[: planned.SHOWN]] if before else []
    if len(before) > planned.SHOWN:
        lines.append(f"and {len(before) - planned.SHOWN} more -> stowage report")
    lines += ["", "away: " + ", ".join(data["absent"])] if data["absent"] else []
    lines += ["", *_output.table(("night", "", "size", "time", ""), plan_told.chart(tonight, _blocks()))]
    if data["estimates"]["error"] is not None:
        lines += ["", f"estimates were {data['estimates']['error']:.0%} off so far"]
    return lines


def folded(lines: List[str], what: str) -> List[str]:
    """The first of many lines that say nearly the same: hundreds of new sources are not to push the chart away."""
    more = len(lines) - SHOWN
    return lines if more <= 1 else [*lines[:SHOWN], f"and {more} more {what}: stowage --json plan names them"]


def _blocks() -> bool:
    """Whether the terminal shows block characters."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return encoding == "utf8" and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "linux")


def _forced(word: str) -> Any:
    """(CLIENT:SOURCE, level or None to take it back)."""
    name, equals, level = word.partition("=")
    if not equals:
        return name, 0
    if level == "none":
        return name, None
    if len(level) != 1 or level not in "0123456789":
        raise RequestError(f"--force {word}: {level!r} is no level", "--force CLIENT:SOURCE=0")
    return name, int(level)
