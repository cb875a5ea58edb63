"""`stowage release`: take a hold away."""

from __future__ import annotations

import argparse
from typing import Any

from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """What to release."""
    parser.add_argument("name", metavar="DUMP|CLIENT", help="what stowage hold was said of")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Releases."""
    from ..app import pruning

    was = pruning.release(open_engine(), args.name)
    told = "is no longer held: its keep counts again" if was else "was not held"
    return _output.Answer({"released": was}, [f"OK   {args.name} {told}"], ["stowage hold", "stowage prune --dry-run"])
