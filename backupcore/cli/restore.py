"""`stowage restore`: bring back files, folders, sources or a whole client."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List, Optional, Tuple

from .. import text
from ..errors import RequestError, StillAsleep
from ..report.night import count
from ..restore.report import shell_word
from . import _keys, _noted, _output, _place, _progress

EXISTS = "exists: not restored"  # what the agent says of a name that is taken (agent/writers.py)


def add(parser: argparse.ArgumentParser) -> None:
    """What, of which moment, from where, to where, and how."""
    parser.usage = "stowage restore [options] CLIENT:/PATH...  |  CLIENT SOURCE [PATH...]"
    parser.add_argument("words", nargs="+", metavar="WHAT", help="CLIENT:/PATH..., or CLIENT SOURCE [PATH...]; globs")
    parser.add_argument("--at", metavar="TIME", help="the newest dump begun at or before: 2026-11-22, yesterday, "
                        "'3 days ago', or the name of a dump (default: now)")  # fmt: skip
    parser.add_argument("--from", metavar="PLACE", dest="place",
                        help="read only from this target, or holding (default: the nearest good copy); or from "
                        "s3://BUCKET/PREFIX, file:///FOLDER or a folder, without any server")  # fmt: skip
    _keys.add_options(parser)
    _place.add_options(parser)
    to = parser.add_mutually_exclusive_group()
    to.add_argument("--to", metavar="DEST", help="a folder DIR of this server, or CLIENT:DIR "
                    "(default: the scratch folder of the client)")  # fmt: skip
    to.add_argument("--in-place", action="store_true", help="where it was, on its client; needs a permit")
    to.add_argument("--stdout", action="store_true", help="write the one file to standard output")
    parser.add_argument("--existing", choices=("refuse", "overwrite", "keep"), default="refuse",
                        help="what becomes of a file that is there already (default: refuse)")  # fmt: skip
    parser.add_argument("--exact", action="store_true", help="also remove what was not there at that moment")
    parser.add_argument("--plan", action="store_true", help="only say what would be read and written")
    parser.add_argument("--wait", metavar="DURATION", help="wait so long for what sleeps in an archive, such as 13 h "
                        "(default: ask for it, and end with exit status 1)")  # fmt: skip
    parser.add_argument("--permit", metavar="ID", help="the permit that the playbook restore wrote on the client")


def audited(args: argparse.Namespace) -> Optional[Tuple[str, Dict[str, Any]]]:
    """What the audit log keeps of it."""
    if args.plan:
        return None
    to = "--stdout" if args.stdout else "--in-place" if args.in_place else args.to or "scratch"
    more = _noted.given(args, "at", "place", "exact", "permit")
    existing = {"existing": args.existing} if args.existing != "refuse" else {}
    return "restore", {"words": args.words, "to": to, **more, **existing}


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Restores, or says what a restore would do."""
    from ..app import restoring

    if args.stdout and (args.json or args.plan or args.exact):
        raise RequestError("--stdout goes with neither --json, --plan nor --exact", "stowage restore --help")
    place = args.place
    if _place.given(args):
        if not args.stdout and not _place.is_folder(args.to):
            raise RequestError("a restore from a place without a server needs --to DIR or --stdout", _place.HINT)
        engine, place = _place.open_loose(args, open_engine, (restoring.client_of(args.words),)), None
    else:
        engine = open_engine()
    asked = restoring.Request(
        args.words, args.at, place, args.to, args.in_place, args.existing, args.exact, args.permit,
        _keys.ring(args, engine.settings), _wait(args.wait),
    )  # fmt: skip
    try:
        return _restore(engine, asked, args)
    except StillAsleep as error:  # what was asked for stays asked for: the place knows it
        again = [_again(args)] if args.wait is not None else [_again(args), _again(args, wait="24h")]
        error.hint = "   or   ".join(again)
        raise


def _wait(word: Any) -> Any:
    try:
        return None if word is None else text.parse_duration(word)
    except ValueError as error:
        raise RequestError(f"--wait: {error}", "stowage restore WHAT --wait 13h") from None


def _restore(engine: Any, asked: Any, args: argparse.Namespace) -> _output.Answer:
    from ..app import restoring

    if args.stdout:
        for piece in restoring.cat(engine, asked, lambda note: _output.say(f"WARN {text.escape(note)}")):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return _output.Answer()
    if args.plan:
        return _plan(restoring.plan(engine, asked), args)
    with _progress.progress(args.json) as progress:
        report = restoring.restore(engine, asked, progress)
    return _answer(report, args)


def _plan(plan: Any, args: argparse.Namespace) -> _output.Answer:
    paths = ", ".join(map(text.escape, dict.fromkeys(plan.paths)))  # "/" is a path of each source
    lines = [
        f"{paths} of {plan.client} as of {plan.moment}: {count(plan.files, 'file')}, "
        f"{text.size(plan.files_bytes)}; {text.size(plan.bytes)} to read; to {text.escape(plan.destination)}"
    ]
    rows = [[one.dump, f"{one.client}:{one.source}", one.level, one.place, text.size(one.bytes)] for one in plan.dumps]
    lines += _output.table(("dump", "source", "level", "from", "to read"), rows)
    lines += [f"note {text.escape(note)}" for note in plan.notes]
    return _output.Answer(plan.as_dict(), lines, [_again(args)])


def _again(args: argparse.Namespace, **other: Any) -> str:
    """The command once more, as it was given; other: but with these options."""
    args = argparse.Namespace(**{**vars(args), **other})
    words = ["stowage", "restore", *args.words]
    loose = _place.again(args)
    place = None if loose else args.place
    for option, value in (("--at", args.at), ("--from", place), ("--to", args.to), ("--permit", args.permit)):
        words += [option, value] if value is not None else []
    words += ["--in-place"] if args.in_place else []
    words += ["--existing", args.existing] if args.existing != "refuse" else []
    words += ["--exact"] if args.exact else []
    words += ["--stdout"] if args.stdout else []
    words += ["--wait", args.wait] if args.wait is not None else []
    for option, values in (("--key", args.key), ("--passphrase-file", [args.passphrase_file])):
        for value in values:
            words += [option, value] if value is not None else []
    return " ".join(shell_word(word) for word in words) + loose


def _taken(report: Any, args: argparse.Namespace) -> List[str]:
    """What to type when something was not restored because it is there already."""
    if args.existing != "refuse" or not any(why == EXISTS for _path, why in report.failed):
        return []
    elsewhere = "DIR" if _place.is_folder(args.to) else None  # None: the client's scratch folder, a new one each time
    beside = _again(args, to=elsewhere, in_place=False, permit=None, exact=False)
    return [_again(args, existing="overwrite"), _again(args, existing="keep"), beside]


def _answer(report: Any, args: argparse.Namespace) -> _output.Answer:
    lines: List[str] = [f"FAIL {path}: {why}" for path, why in report.failed[:50]]
    if report.failed_count > len(lines):
        lines.append(f"FAIL and {report.failed_count - len(lines)} more (--json lists up to {report.FAILED_LIMIT})")
    lines += [f"WARN not kept: {text.escape(one)}" for one in report.not_kept]
    lines += [f"WARN {one}" for one in report.notes]
    status = {"ok": "OK", "warn": "WARN", "fail": "FAIL"}[report.status]
    skipped = f", {report.skipped} kept as they were" if report.skipped else ""
    failed = f", {report.failed_count} not restored" if report.failed_count else ""
    what = f"{count(report.files, 'file')}, {text.size(report.bytes)} of {report.client} as of {report.moment}"
    where = f"in {text.escape(report.destination)} after {text.duration(report.seconds)}"
    lines.append(f"{status:4s} {what} {where}{skipped}{failed}")
    data = report.as_dict()
    data.pop("next", None)
    warnings = len(report.notes) + len(report.not_kept)
    taken = _taken(report, args)
    # where nothing else is wrong, a list of dumps helps nobody
    after = taken if taken and all(why == EXISTS for _path, why in report.failed) else [*taken, *report.next]
    done = {"files": report.files, "bytes": report.bytes, "destination": report.destination, "as_of": report.moment,
            "failed": report.failed_count}  # fmt: skip
    return _output.Answer(data, lines, after or ["stowage status"], status, warnings, audit=done)
