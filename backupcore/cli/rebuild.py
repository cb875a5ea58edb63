"""`stowage rebuild`: the catalog, made again from the images of one target."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

from .. import text
from ..report.night import count
from . import _keys, _noted, _output

SHOWN = 20  # lines of one kind; --json has more
FEW = 3  # dumps without an index that are told one by one
EVERY = 5.0  # seconds between two lines of progress


def add(parser: argparse.ArgumentParser) -> None:
    """From where, whom to believe, and what opens sealed indexes."""
    parser.add_argument("--from", metavar="TARGET", dest="place", required=True, help="the target to read")
    parser.add_argument("--signer", metavar="FPR", action="append", default=[],
                        help="believe only what is signed by this key: its fingerprint as in the key kit, 16 digits "
                        "or more; may be repeated")  # fmt: skip
    parser.add_argument("--signer-key", metavar="FILE", action="append", default=[],
                        help="a public signing key from the key kit, where the target has none")  # fmt: skip
    _keys.add_options(parser)
    parser.add_argument("--witness", metavar="TARGET", help="another target: what it knows better is an error")
    parser.add_argument("--last-run", metavar="RUN", help="the last run you remember: a target that does not know it, "
                        "or a later one, is refused")  # fmt: skip
    parser.add_argument("--server", metavar="ID", help="which server's dumps, where a target has those of several")


def audited(args: argparse.Namespace) -> Optional[Tuple[str, Dict[str, Any]]]:
    """What the audit log keeps of it."""
    given = _noted.given(args, "signer", "signer_key", "server", "witness", "last_run")
    return "rebuild", {"from": args.place, **given}


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Rebuilds."""
    from ..app import rebuilding

    _keys.check_files(args)
    asked = rebuilding.Request(
        args.place, args.signer, args.signer_key, args.server, args.witness, args.last_run, args.key, _keys.asker(args)
    )
    report = rebuilding.rebuild(open_engine(), asked, None if args.json else _Told())
    said = bool(args.signer or args.signer_key)
    lines = [*_findings(report), *_alone(report), *_signers(report, said), _headline(report)]
    target = report.place
    after = ["stowage check", f"stowage verify --target {target}", "stowage list dumps"]
    if report.failed:
        after = [f"stowage rebuild --from {target}"]
    data = report.as_dict()
    done = {"added": report.added, "known": report.known, "left": report.left_count, "server": report.server,
            "adopted": list(report.adopted)}  # fmt: skip
    return _output.Answer(data, lines, after, report.status, report.left_count + report.findings_count, audit=done)


class _Told:
    """A line on standard error now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, event: Dict[str, Any]) -> None:
        if time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            _output.say(f"{event['phase']}: {event['done']}")
            sys.stderr.flush()


def _findings(report: Any) -> List[str]:
    lines = []
    for status in ("note", "WARN", "FAIL"):
        found = [one for one in report.findings if one.status == status]
        for one in found[:SHOWN]:
            where = f"{one.source}: " if one.source else ""
            lines.append(text.escape(f"{status:4s} {where}{one.message}" + (f" -> {one.hint}" if one.hint else "")))
        if len(found) > SHOWN:
            lines.append(f"{status:4s} and {len(found) - SHOWN} more of this kind (--json lists them)")
    lines += [text.escape(f"WARN left alone: {folder}: {why}") for folder, why in report.left[:SHOWN]]
    if report.left_count > SHOWN:
        lines.append(f"WARN and {report.left_count - SHOWN} more left alone (--json lists them)")
    if report.seen.others:
        lines.append(f"note {count(report.seen.others, 'file')} on {report.place} belong to no dump: "
                     + text.escape(", ".join(report.seen.examples[:3])))  # fmt: skip
    if report.seen.unfinished:
        lines.append(f"note {count(report.seen.unfinished, 'folder')} without a manifest: never finished, no dumps")
    failed = report.indexes.failed
    for dump, why in report.indexes.failures[: FEW if failed <= FEW else 1]:
        lines.append(text.escape(f"WARN the index of {dump} was not fetched, find will try again: {why}"))
    if failed > FEW:  # mostly for one reason
        lines.append(f"WARN and those of {failed - 1} more dumps (--json lists them) "
                     f"-> stowage rebuild --from {report.place}")  # fmt: skip
    if report.indexes.closed:
        closed = count(report.indexes.closed, "dump")
        lines.append(text.escape(
            f"note {closed} without a file index: {report.indexes.why_closed} "
            f"-> stowage rebuild --from {report.place} --key FILE"
        ))  # fmt: skip
    return lines


def _signers(report: Any, said: bool) -> List[str]:
    # said: the operator has named them from the kit
    lines = []
    for name in report.signers:
        if name in report.adopted:
            lines.append(f"signed by {name}: trusted from now on")
            if not said:
                lines.append("     compare this fingerprint with the key kit; if it differs, believe nothing of this")
        else:
            lines.append(f"signed by {name}, which this server trusts")
    if report.taken:
        lines.append(f"this is the backup server {report.server} again: its dumps are its own, its numbers go on")
    return lines


def _alone(report: Any) -> List[str]:
    """What one place cannot show of itself, said whenever nobody else was asked."""
    if not report.alone:
        return []
    newest = f"the newest run it knows is {report.newest_run or 'none'}; compare with your last mail"
    return [
        f"note {report.place} alone cannot show that nothing newer was taken away: {newest}",
        f"     -> stowage rebuild --from {report.place} --witness TARGET   or   --last-run RUN",
    ]


def _headline(report: Any) -> str:
    rate = report.found / report.seconds * 60 if report.seconds else 0
    there = f", {report.known} were there already" if report.known else ""
    left = f", {report.left_count} left alone" if report.left_count else ""
    return (
        f"{report.status:4s} {count(report.added, 'dump')} of {count(report.sources, 'source')} added from "
        f"{report.place}{there}{left}; {report.indexes.fetched} indexes fetched; "
        f"{text.duration(report.seconds)}, {rate:.0f} dumps a minute"
    )
