"""`stowage stage`: make the copies that the policies ask for, or second ones of what is on a target."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .. import text
from ..errors import RequestError
from . import _output, _progress

SECOND = (
    ("--client", "C", "only dumps of this client"), ("--source", "S", "only of this source"),
    ("--dump", "D", "only this dump, and what it is based on"),
)  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """--target, --now; --from, --to and which dumps; --dry-run."""
    parser.add_argument("--target", metavar="T", action="append", default=[], help="only this target; may be repeated")
    parser.add_argument("--now", action="store_true", help="also what waits for its window; rates hold")
    parser.add_argument("--from", dest="origin", metavar="T", help="copy what is on this target, though no rule asks")
    parser.add_argument("--to", metavar="T", help="with --from: to this one")
    for option, word, what in SECOND:
        parser.add_argument(option, metavar=word, action="append", default=[],
                            help=f"with --from: {what}; may be repeated")  # fmt: skip
    parser.add_argument("--since", metavar="TIME", help="with --from: only dumps begun since, and what they build on")
    parser.add_argument("--wait", metavar="DURATION", help="for what sleeps in an archive, such as 13h")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be copied, and how much")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Copies what is pending, or what is asked for."""
    _check(args)
    engine = open_engine()
    if args.origin or args.dry_run:
        return _second(args, engine)
    with _progress.progress(args.json) as progress:
        done = _awake(engine, args, lambda: engine.stage(args.target, progress, now=args.now), progress)
    asleep = _asleep(engine, done)
    return told(done.copies, done.released, done.problems, unlocked=done.unlocked, asleep=asleep, again=args)


def _awake(engine: Any, args: argparse.Namespace, make: Callable[[], Any], progress: Any) -> Any:
    from ..app import asleep

    try:
        wait = None if args.wait is None else text.parse_duration(args.wait)
    except ValueError as error:
        raise RequestError(f"--wait: {error}", "stowage stage --wait 13h") from None
    return asleep.stage(engine, make, wait, progress)


def _asleep(engine: Any, done: Any) -> Sequence[str]:
    from ..stage import waking

    return waking.lines(done.copies, engine.settings)


def _check(args: argparse.Namespace) -> None:
    again = "stowage stage --from TARGET --to TARGET [--client C] [--source S] [--dump D] [--since TIME]"
    if bool(args.origin) != bool(args.to):
        raise RequestError(f"--{'to' if args.origin else 'from'} is missing", again)
    if args.origin and (args.target or args.now):
        raise RequestError("--from and --to make their copies now: they go without --target and --now", again)
    if not args.origin and (args.client or args.source or args.dump or args.since):
        raise RequestError("--client, --source, --dump and --since go with --from and --to", again)


def _second(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import second

    asked = second.Asked(args.origin, args.to, args.client, args.source, args.dump, args.since)
    if args.dry_run:
        chosen = second.choose(engine, asked) if args.origin else None  # None: what the policies ask for
        plan = second.plan(engine, args.target, chosen, args.origin or "")
        words = " ".join(["stowage", *_words(args)])
        return _output.Answer(
            data={"plan": plan, "dry_run": True, **(_told_of(chosen) if chosen else {})},
            lines=[*_lines(plan), *(_left_out(chosen) if chosen else [])], next=[words],
        )  # fmt: skip
    told_of: List[Any] = []

    def make() -> Any:
        chosen, done = second.copy(engine, asked, progress)
        told_of.append(chosen)
        return done

    with _progress.progress(args.json) as progress:
        done = _awake(engine, args, make, progress)
    chosen = told_of[0]
    asleep = _asleep(engine, done)
    answer = told(done.copies, done.released, done.problems, _told_of(chosen), done.unlocked, asleep, args)
    answer.lines[-1:-1] = _left_out(chosen)
    return answer


def _words(args: argparse.Namespace) -> List[str]:
    """The same without --dry-run, for a shell."""
    given = [("--from", args.origin), ("--to", args.to), ("--since", args.since)]
    given += [(f"--{name}", one) for name in ("target", "client", "source", "dump") for one in getattr(args, name)]
    words = [part for option, value in given if value for part in (option, shlex.quote(value))]
    return ["stage", *words, *(["--now"] if args.now else [])]


def _lines(plan: Sequence[Dict[str, Any]]) -> List[str]:
    """A line for each target and where its copies are made from."""
    lines = []
    for one in plan:
        waits = f"; {one['waits']} of them wait for a window or another copy" if one["waits"] else ""
        lines.append(f"{one['target']} from {one['from']}: {one['copies']} copies, {text.size(one['bytes'])}, "
                     f"{one['oldest']} to {one['newest']}{waits}")  # fmt: skip
    total = sum(one["bytes"] for one in plan)
    return [*lines, f"{sum(one['copies'] for one in plan)} copies to make, {text.size(total)}; nothing was copied"]


def _told_of(chosen: Any) -> Dict[str, Any]:
    return {"there": list(chosen.there), "removed": list(chosen.removed),
            "lacking": [{"dump": dump, "base": base} for dump, base in chosen.lacking]}  # fmt: skip


def _left_out(chosen: Any) -> List[str]:
    lines = [f"WARN {dump} is based on {base}, which is on neither of the two" for dump, base in chosen.lacking[:10]]
    if len(chosen.lacking) > 10:
        lines.append(f"WARN and {len(chosen.lacking) - 10} more like that (--json lists them)")
    if chosen.removed:
        lines.append(f"note {len(chosen.removed)} dumps were removed there by prune: they are left out")
    if chosen.there:
        lines.append(f"note {len(chosen.there)} are there already")
    return lines


def told(
    copies: Sequence[Any], released: Sequence[Any], problems: Sequence[str], data: Optional[dict] = None,
    unlocked: Sequence[str] = (), asleep: Sequence[str] = (), again: Optional[argparse.Namespace] = None,
) -> _output.Answer:  # fmt: skip
    """What a staging did, what failed, and what waits for its time. asleep: what waits for an archive; again: what was
    typed, to be typed once more then."""
    failed = [one for one in copies if one.failed]
    lines = [f"FAIL {one.client}:{one.source} {one.target}: {text.escape(one.message)}"
             + (f" -> {text.escape(one.hint)}" if one.hint else "") for one in failed]  # fmt: skip
    waiting: Dict[Tuple[str, str, str], List[Any]] = {}
    for one in copies:
        if one.waits and one.sleep is None:
            waiting.setdefault((one.client, one.source, one.target), []).append(one)
    for (client, source, target), found in waiting.items():
        more = f" ({len(found)} copies)" if len(found) > 1 else ""
        lines.append(f"wait {client}:{source} {target}: {text.escape(found[0].message)}{more}")
    lines += [f"wait {text.escape(one)}" for one in asleep]
    lines += [f"FAIL {text.escape(one)}" for one in unlocked]
    lines += [f"WARN {text.escape(problem)}" for problem in problems]
    count = sum(one.bytes for one in copies if one.ok)
    made, waits = sum(one.ok for one in copies), sum(one.waits for one in copies)
    status = "FAIL" if failed or unlocked else "WARN" if problems else "OK"
    lines.append(f"{status:4s} {made} copies made, {text.size(count)}; {len(failed)} failed; "
                 + (f"{waits} wait for their time; " if waits else "")
                 + f"{len(released)} images left the holding disk")  # fmt: skip
    return _output.Answer(
        data={
            **(data or {}), "copies": [one.as_dict() for one in copies], "released": list(released),
            "problems": list(problems), "unlocked": list(unlocked), "asleep": list(asleep),
        },
        lines=lines,
        next=_next(bool(failed or unlocked), again if asleep else None),
        status=status,
        warnings=len(problems),
    )  # fmt: skip


def _next(failed: bool, again: Optional[argparse.Namespace]) -> List[str]:
    """The next steps. again: what was typed, when it is to be typed once more."""
    if again is not None:
        words = " ".join(["stowage", *_words(again)])
        return [words] if again.wait is not None else [words, f"{words} --wait 24h"]
    return ["stowage check", "stowage stage"] if failed else ["stowage list copies"]
