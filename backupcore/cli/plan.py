"""`stowage plan`: tonight's level of each source and why."""

from __future__ import annotations

import argparse
from typing import Any

from .. import text
from ..errors import RequestError
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """--why, and the selection of run."""
    parser.add_argument("--why", metavar="SOURCE", help="only this source, as CLIENT:SOURCE or SOURCE, and its reason")
    parser.add_argument("--client", metavar="C", action="append", default=[], help="only this client; may be repeated")
    parser.add_argument(
        "--source", metavar="S", action="append", default=[], help="only sources of this name; may be repeated"
    )
    parser.add_argument("--level", metavar="N", type=int, choices=range(10), help="as if this level were asked for")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Tonight's levels."""
    if args.why and args.source:
        raise RequestError("--why and --source together", "stowage plan --why CLIENT:SOURCE")
    engine = open_engine()
    chosen = engine.select(args.client, [args.why] if args.why else args.source)
    planned = engine.plan(chosen, args.level)
    if args.why:
        lines = [f"{one.client}:{one.source} level {one.level}: {text.escape(one.reason)}" for one in planned]
    else:
        rows = [[f"{one.client}:{one.source}", one.level, text.escape(one.reason)] for one in planned]
        lines = _output.table(("source", "level", "why"), rows) or ["no source is configured"]
    return _output.Answer(
        data={"sources": [
            {"client": one.client, "source": one.source, "level": one.level, "base": one.base, "reason": one.reason}
            for one in planned
        ]},
        lines=lines,
        next=["stowage run"] if planned else ["stowage check"],
    )  # fmt: skip
