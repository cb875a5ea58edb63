"""`stowage prune`: remove what is past its keep; what stays, and why."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Optional, Tuple

from .. import clock, text
from ..errors import RequestError
from . import _noted, _output, _progress

FOLD = 40  # lines of sources that are shown one by one
_WORDS = {"mark": "is marked", "waits": "waits", "remove": "goes now"}


def add(parser: argparse.ArgumentParser) -> None:
    """Where, and whether at all."""
    parser.add_argument("--target", metavar="T", action="append", default=[], help="only there; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go, and why the rest stays")
    parser.add_argument("--all", action="store_true", help="with --dry-run: copy by copy")
    parser.add_argument("--undo", metavar="DUMP", nargs="?", const="", default=None,
                        help="nothing that is marked goes, or not that dump's copies")  # fmt: skip


def audited(args: argparse.Namespace) -> Optional[Tuple[str, Dict[str, Any]]]:
    """What the audit log keeps of it."""
    if args.dry_run:
        return None
    if args.undo is not None:
        return "prune --undo", {"words": args.undo or "all"}
    return "prune", _noted.given(args, "target")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Prunes, or says what a prune would do, or takes marks away."""
    from ..app import pruning

    if args.undo is not None and (args.target or args.dry_run) or args.all and not args.dry_run:
        raise RequestError("--undo stands alone, --all with --dry-run", "stowage prune --help")
    engine = open_engine()
    if args.undo is not None:
        count = pruning.undo(engine, args.undo or None)
        lines = [f"OK   {count} copies are no longer marked" if count else "OK   nothing was marked"]
        if count:
            lines.append("the next prune marks them again, unless their keep is longer by then or they are held")
        return _output.Answer({"unmarked": count}, lines, ["stowage hold DUMP", "stowage prune --dry-run"],
                              audit={"unmarked": count})  # fmt: skip
    if args.dry_run:
        return _told(args, pruning, engine, pruning.look(engine, args.target))
    with _progress.progress(args.json):
        done = pruning.run(engine, args.target)
    unlocked = pruning.said_unlocked(done.unlocked)
    lines = [f"FAIL {text.escape(one)}" for one in unlocked]
    lines += [f"WARN {text.escape(problem)}" for problem in done.problems]
    told = pruning.notes(done)
    status = pruning.status_of(done)
    lines += [f"{status:4s} {one}" for one in told or ["nothing to remove"]]
    return _output.Answer(
        data={
            "copies": [pruning.record(one) for one in done.verdicts],
            "removed": [{"dump": dump, "target": target} for dump, target in done.removed],
            "forgotten": list(done.forgotten), "problems": list(done.problems), "unlocked": list(unlocked),
            "locked": [{"dump": dump, "target": target} for dump, target in done.locked],
        },
        lines=lines, next=["stowage check"] * bool(unlocked) + ["stowage prune --dry-run"], status=status,
        warnings=len(done.problems), audit=pruning.noted(done),
    )  # fmt: skip


def _told(args: argparse.Namespace, pruning: Any, engine: Any, verdicts: List[Any]) -> _output.Answer:
    records = [pruning.record(one) for one in verdicts]
    going = [one for one in records if one["goes"]]
    lines: List[str] = []
    if args.all:
        rows = [[one["dump"], _source(one), one["target"], text.size(one["bytes"]), _WORDS.get(one["phase"], "stays"),
                 _reason(one)] for one in records]  # fmt: skip
        lines += _output.table(("dump", "source", "target", "size", "what", "why"), rows)
    else:
        lines += _folded(going, [one for one in records if not one["goes"]])
    grown = pruning.growth(engine, verdicts)
    lines += [f"     {target}: no keep, so for ever; it grew by {text.size(size)} in 30 days"
              for target, size in sorted(grown.items())]  # fmt: skip
    size = text.size(sum(one["bytes"] for one in going))
    lines.append(f"OK   {len(going)} of {len(records)} copies are past their keep, {size}")
    data: Dict[str, Any] = {"copies": records, "growth": grown}
    return _output.Answer(data, lines, ["stowage prune"] if going else ["stowage list copies"])


def _folded(going: List[dict], staying: List[dict]) -> List[str]:
    lines: List[str] = []
    goes: Dict[Tuple[str, ...], List[dict]] = {}
    for one in going:
        goes.setdefault((_source(one), one["target"], one["phase"]), []).append(one)
    rows = [[source, target, str(len(found)), text.size(sum(one["bytes"] for one in found)), _WORDS[phase],
             _when(min(one["goes"] for one in found))]
            for (source, target, phase), found in sorted(goes.items())]  # fmt: skip
    lines += _output.table(("source", "target", "copies", "size", "what", "goes from"), rows[:FOLD])
    lines += [f"and {len(rows) - FOLD} lines more: --all"] if len(rows) > FOLD else []
    stays: Dict[Tuple[str, str], List[dict]] = {}
    for one in staying:
        stays.setdefault((one["target"], _reason(one)), []).append(one)
    rows = [[target, str(len(found)), str(len({_source(one) for one in found})),
             text.size(sum(one["bytes"] for one in found)), why]
            for (target, why), found in sorted(stays.items(), key=lambda one: (one[0][0], -len(one[1])))]  # fmt: skip
    lines += [""] if lines and rows else []
    return lines + _output.table(("target", "copies", "sources", "size", "stay, since"), rows)


def _reason(one: dict) -> str:
    """Why, without the name of another dump."""
    reason = one["reason"]
    for end in (" needs it", " needs it here"):
        if reason.endswith(end):
            return "a dump that stays" + end
    return reason


def _when(iso: str) -> str:
    return clock.local(clock.parse_iso(iso))


def _source(one: dict) -> str:
    return f"{one['client']}:{one['source']}" + (f".{one['segment']}" if one["segment"] else "")
