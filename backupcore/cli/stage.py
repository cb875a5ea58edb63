"""`stowage stage`: make the copies that the policies ask for."""

from __future__ import annotations

import argparse
from typing import Any

from .. import text
from . import _output, _progress


def add(parser: argparse.ArgumentParser) -> None:
    """--target."""
    parser.add_argument("--target", metavar="T", action="append", default=[], help="only this target; may be repeated")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Copies what is pending."""
    engine = open_engine()
    with _progress.progress(args.json) as progress:
        done = engine.stage(args.target, progress)
    failed = [one for one in done.copies if not one.ok]
    lines = [f"FAIL {one.client}:{one.source} {one.target}: {text.escape(one.message)}"
             + (f" -> {text.escape(one.hint)}" if one.hint else "") for one in failed]  # fmt: skip
    lines += [f"WARN {text.escape(problem)}" for problem in done.problems]
    count = sum(one.bytes for one in done.copies if one.ok)
    made = len(done.copies) - len(failed)
    status = "FAIL" if failed else "WARN" if done.problems else "OK"
    lines.append(f"{status:4s} {made} copies made, {text.size(count)}; {len(failed)} failed; "
                 f"{len(done.released)} images left the holding disk")  # fmt: skip
    return _output.Answer(
        data={
            "copies": [one.as_dict() for one in done.copies], "released": list(done.released),
            "problems": list(done.problems),
        },
        lines=lines,
        next=["stowage check", "stowage stage"] if failed else ["stowage list copies"],
        status=status,
        warnings=len(done.problems),
    )  # fmt: skip
