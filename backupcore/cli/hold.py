"""`stowage hold`: keep a dump, or all of a client, whatever keep says."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List, Optional, Tuple

from .. import clock, text
from . import _noted, _output


def add(parser: argparse.ArgumentParser) -> None:
    """What to hold, and why; without a name: what is held."""
    parser.add_argument("name", metavar="DUMP|CLIENT", nargs="?", help="what nothing is removed of; none: what is held")
    parser.add_argument("--why", metavar="TEXT", default="", help="for those who find it held years later")


def audited(args: argparse.Namespace) -> Optional[Tuple[str, Dict[str, Any]]]:
    """What the audit log keeps of it."""
    return None if args.name is None else ("hold", _noted.given(args, "name", "why"))


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Holds, or lists what is held."""
    from ..app import pruning
    from ..catalog import marks

    engine = open_engine()
    lines: List[str] = []
    problems: List[str] = []
    new, there = False, 0
    if args.name is not None:
        new, done = pruning.hold(engine, args.name, args.why)
        problems, there = list(done.problems), len(done.held)
        lines.append(f"OK   {args.name} is held" + ("" if new else ", as before") + ": prune removes nothing of it")
        if there:
            lines.append(f"     {there} copies are held by their targets themselves, too")
        lines += [f"WARN {text.escape(one)}; the next run tries again" for one in problems]
    held = marks.held(engine.catalog)
    if args.name is None:
        rows = [[one.kind, text.escape(one.name), clock.local(one.when_ns), text.escape(one.why)] for one in held]
        lines += _output.table(("kind", "name", "since", "why"), rows) or ["nothing is held"]
    data = {
        "held": [{"kind": one.kind, "name": one.name, "since": clock.iso(one.when_ns), "why": one.why}
                 for one in held],
        "new": new, "at_targets": there, "problems": problems,
    }  # fmt: skip
    status = "WARN" if problems else "OK"
    return _output.Answer(data, lines, ["stowage prune --dry-run"], status, warnings=len(problems),
                          audit={"new": new, "at_targets": there})  # fmt: skip
