"""`stowage stage`: make the copies that the policies ask for."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .. import text
from . import _output, _progress


def add(parser: argparse.ArgumentParser) -> None:
    """--target, --now."""
    parser.add_argument("--target", metavar="T", action="append", default=[], help="only this target; may be repeated")
    parser.add_argument("--now", action="store_true", help="also what waits for its window; rates hold")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Copies what is pending."""
    engine = open_engine()
    with _progress.progress(args.json) as progress:
        done = engine.stage(args.target, progress, now=args.now)
    return told(done.copies, done.released, done.problems)


def told(
    copies: Sequence[Any], released: Sequence[Any], problems: Sequence[str], data: Optional[dict] = None
) -> _output.Answer:
    """What a staging did, what failed, and what waits for its time."""
    failed = [one for one in copies if one.failed]
    lines = [f"FAIL {one.client}:{one.source} {one.target}: {text.escape(one.message)}"
             + (f" -> {text.escape(one.hint)}" if one.hint else "") for one in failed]  # fmt: skip
    waiting: Dict[Tuple[str, str, str], List[Any]] = {}
    for one in copies:
        if one.waits:
            waiting.setdefault((one.client, one.source, one.target), []).append(one)
    for (client, source, target), found in waiting.items():
        more = f" ({len(found)} copies)" if len(found) > 1 else ""
        lines.append(f"wait {client}:{source} {target}: {text.escape(found[0].message)}{more}")
    lines += [f"WARN {text.escape(problem)}" for problem in problems]
    count = sum(one.bytes for one in copies if one.ok)
    made, waits = sum(one.ok for one in copies), sum(one.waits for one in copies)
    status = "FAIL" if failed else "WARN" if problems else "OK"
    lines.append(f"{status:4s} {made} copies made, {text.size(count)}; {len(failed)} failed; "
                 + (f"{waits} wait for their time; " if waits else "")
                 + f"{len(released)} images left the holding disk")  # fmt: skip
    return _output.Answer(
        data={
            **(data or {}), "copies": [one.as_dict() for one in copies], "released": list(released),
            "problems": list(problems),
        },
        lines=lines,
        next=["stowage check", "stowage stage"] if failed else ["stowage list copies"],
        status=status,
        warnings=len(problems),
    )  # fmt: skip
