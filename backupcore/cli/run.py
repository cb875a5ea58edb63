"""`stowage run`: dump what is due to the holding disk, copy it to the targets, report."""

from __future__ import annotations

import argparse
from typing import Any, List

from .. import text
from ..app import early, retrying
from ..dump.warm import Warm
from ..errors import Busy, RequestError
from . import _output, _progress, stage


def add(parser: argparse.ArgumentParser) -> None:
    """What is dumped, at which level, and who is waited for."""
    parser.add_argument("--client", metavar="C", action="append", default=[], help="only this client; may be repeated")
    parser.add_argument(
        "--source", metavar="S", action="append", default=[], help="only sources of this name; may be repeated"
    )
    parser.add_argument(
        "--level", metavar="N", type=int, choices=range(10), help="this level for all of them: 0 is a full"
    )
    parser.add_argument(
        "--due", action="store_true", help="only what schedules of sources' own, and windows of copies, ask for now"
    )
    parser.add_argument(
        "--join", action="store_true", help="wait for a run at work, and dump what it has not dumped meanwhile"
    )
    parser.add_argument(
        "--retry", action="store_true", help="wait for clients that fail as long as `retry` of the configuration says"
    )
    parser.add_argument(
        "--wait-for", metavar="CLIENT[=DURATION]", action="append", default=[],
        help="wait so long for this client, an hour if not said; may be repeated",
    )  # fmt: skip


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Runs now."""
    if args.due and args.level is not None:
        raise RequestError("--due and --level together", "stowage run --client C --source S --level N")
    if args.due and args.join:
        raise RequestError("--due and --join together", "what is due is asked for again in a few minutes")
    if args.due and (args.retry or args.wait_for):
        raise RequestError("--due does not wait for clients", "what is due is asked for again in a few minutes")
    with Warm() as ready:
        if not args.due:
            early.begin(ready, open_engine.written, args.client, args.source)
        engine = open_engine()
        some = bool(args.client or args.source)
        chosen = engine.select(args.client, args.source) if some else None
        patience = retrying.patience(engine, args.retry, args.wait_for, chosen)
        try:
            with _progress.progress(args.json) as progress:
                done = engine.run(chosen, args.level, progress, ready=ready, due=args.due, join=args.join,
                                  patience=patience)  # fmt: skip
        except Busy as busy:
            if not args.due:
                busy.hint = busy.hint if args.json else f"{text.escape(engine.command)} --join"
                raise
            retrying.refused(engine, chosen)
            told = f"{busy.message}: what is due waits for its end"  # the timer comes again
            return _output.Answer(data={"headline": told, "sources": []}, lines=[told], next=["stowage status"])
    report = done.report
    if report is None and done.copies:
        return stage.told(done.copies, done.released, done.warnings, {"headline": "copies", "sources": []})
    if report is None:
        return _output.Answer(data={"headline": "nothing is due", "sources": []}, lines=["nothing is due"])
    lines: List[str] = [f"note {text.escape(note)}" for note in done.notes]
    lines += [f"WARN {text.escape(warning)}" for warning in done.warnings]
    for line in report.lines:
        if line.status != "OK" or line.message:
            lines.append(_told(line.status, f"{line.client}:{line.source} {line.message}", line.hint))
    for target in report.targets:
        if target.status != "OK" or target.message:
            status = target.status if target.status != "OK" else "wait"
            lines.append(_told(status, f"{target.target}: {target.message}", target.hint))
    lines += [f"WARN {text.escape(note)}" for note in report.notes]
    # a failure's headline is the first of these lines: it is told once, at the end
    lines = [line for line in lines if not report.headline.startswith(line)] + [report.headline]
    return _output.Answer(
        data={
            **report.as_dict(),
            "notes": [*report.notes, *map(text.escape, (*done.warnings, *done.notes))],
            "copies": [one.as_dict() for one in done.copies],
            "released": list(done.released),
            "unsearched": list(done.unsearched),
        },
        lines=lines,
        next=report.next or ["stowage report"],
        status=done.status,
        warnings=report.warnings + len(done.warnings),
    )


def _told(status: str, message: str, hint: str) -> str:
    return f"{status:4s} {message}" + (f" -> {hint}" if hint else "")
