"""`stowage check`: everything a night needs, before the night; and what no source covers."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, List

from .. import text
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """--client."""
    parser.add_argument(
        "--client", metavar="C", action="append", default=[], help="only this client (and no targets); may be repeated"
    )


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Checks now."""
    from ..app import check

    engine = open_engine()
    done = check.check(engine, args.client)
    lines: List[str] = []
    for one in done.findings:
        if one.status != "OK" or one.area != "client":
            name = one.name if one.area == "client" else f"{one.area} {one.name}" if one.area == "target" else one.name
            hint = f" -> {one.hint}" if one.hint else ""
            lines.append(text.escape(f"{one.status:4s} {name}: {one.message}{hint}"))
    parts = [f"{len(done.ready)} of {len(done.asked)} clients ready"]
    if done.away:
        parts.append(f"{len(done.away)} away")
    if done.bare:
        told = ", ".join(f"{one.client}:{one.path}" + (f" ({text.size(one.bytes)})" if one.bytes else "")
                         for one in done.bare[:3])  # fmt: skip
        more = f" and {len(done.bare) - 3} more" if len(done.bare) > 3 else ""
        parts.append(f"not covered: {text.escape(told)}{more}")
    lines.append(f"{done.status:4s} " + "; ".join(parts))
    return _output.Answer(
        data={
            "findings": [one.as_dict() for one in done.findings],
            "ready": list(done.ready),
            "away": list(done.away),
            "not_covered": [{**asdict(one), "path": text.escape(one.path)} for one in done.bare],
        },
        lines=lines,
        next=["stowage check"] if done.status == "FAIL" else ["stowage plan", "stowage run"],
        status=done.status,
        warnings=sum(1 for one in done.findings if one.status == "WARN"),
    )
