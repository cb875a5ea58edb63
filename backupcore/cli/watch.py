"""`stowage watch`: what is wrong between two nights, and tells those who listen what begins, lasts and ends."""

from __future__ import annotations

import argparse
from typing import Any, List

from .. import clock
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """Whether anybody is told."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="look; tell nobody and remember nothing")
    how.add_argument("--test", action="store_true", help="tell everybody that this is a test")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """One look."""
    from ..app import watching

    engine = open_engine()
    if args.test:
        return _tested(watching.test(engine))
    found = watching.look(engine, args.dry_run)
    lines = [found.headline]
    if len(found.troubles) > 1:
        lines += [f"{one.status:4s} {one.message}" + (f" -> {one.hint}" if one.hint else "") for one in found.troubles]
    for one in found.troubles:
        begun = found.since[one.key]
        if begun != found.now_ns:
            lines.append(f"     {one.name}: since {clock.local(begun)}")
    lines += [f"told {one['event']}: {one['kind']} {one['state']}" for one in found.told]
    lines += [f"FAIL {one}" for one in found.failed]
    hints = [one.hint for one in found.troubles if one.hint.startswith("stowage ")]
    return _output.Answer(
        data={**found.as_dict(), "told": list(found.told), "failed": list(found.failed)},
        lines=lines,
        next=list(dict.fromkeys(hints))[:3] or ["stowage status"],
        status=found.status,
        warnings=sum(1 for one in found.troubles if one.status == "WARN"),
    )


def _tested(answers: Any) -> _output.Answer:
    lines: List[str] = []
    for name, error in answers:
        lines.append(f"OK   {name} was told" if error is None else f"FAIL {error.message} -> {error.hint}")
    failed = [name for name, error in answers if error is not None]
    return _output.Answer(
        data={"told": [name for name, error in answers if error is None],
              "failed": [f"{error.message} -> {error.hint}" for _name, error in answers if error is not None]},
        lines=lines or ["WARN nobody is told anything: events is empty"],
        next=["stowage check"] if failed else ["stowage watch"],
        status="FAIL" if failed else "OK" if answers else "WARN",
        warnings=0 if answers else 1,
    )  # fmt: skip
