"""`stowage release`: take a hold away."""

from __future__ import annotations

import argparse
from typing import Any, Dict, Optional, Tuple

from .. import text
from . import _noted, _output


def add(parser: argparse.ArgumentParser) -> None:
    """What to release."""
    parser.add_argument("name", metavar="DUMP|CLIENT", help="what stowage hold was said of")
    parser.add_argument("--dumps", action="store_true", help="of a client: also what holds single dumps of it")


def audited(args: argparse.Namespace) -> Optional[Tuple[str, Dict[str, Any]]]:
    """What the audit log keeps of it."""
    return "release", _noted.given(args, "name", "dumps")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Releases."""
    from ..app import pruning

    engine = open_engine()
    was, done = pruning.release(engine, args.name, args.dumps)
    told = "is no longer held: its keep counts again" if args.name in was else "was not held"
    lines = [f"OK   {args.name} {told}"]
    others = len(was) - (args.name in was)
    lines += [f"     {others} of its dumps are no longer held either"] if others else []
    if done.released:
        lines.append(f"     {len(done.released)} copies are no longer held by their targets")
    left = pruning.held_of(engine, args.name)
    if left:
        lines.append(f"     still held by themselves: {text.escape(', '.join(left[:3]))}"
                     + (f" and {len(left) - 3} more" if len(left) > 3 else ""))  # fmt: skip
    lines += [f"WARN {text.escape(one)}; the next run tries again" for one in done.problems]
    data = {"released": bool(was), "names": was, "at_targets": len(done.released), "still": left,
            "problems": list(done.problems)}  # fmt: skip
    return _output.Answer(data, lines, ["stowage hold", "stowage prune --dry-run"],
                          "WARN" if done.problems else "OK", warnings=len(done.problems),
                          audit={"released": was, "at_targets": len(done.released)})  # fmt: skip
