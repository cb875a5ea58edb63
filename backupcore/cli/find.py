"""`stowage find`: all versions of a name, path or glob, over all dumps."""

from __future__ import annotations

import argparse
from typing import Any, Dict, Iterator, List

from .. import text
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """The pattern, and where to look."""
    parser.add_argument("pattern", metavar="PATTERN", help="a name, a path, or a glob: passwd, /etc/passwd, '*.conf'")
    parser.add_argument("--client", metavar="C", help="only this client")
    parser.add_argument("--source", metavar="S", help="only this source")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Finds; nothing found is exit status 1, as with grep."""
    from ..app import restoring

    engine = open_engine()
    newest: List[str] = []
    count = [0]
    found, notes = restoring.find(engine, args.pattern, args.client, args.source)

    def items() -> Iterator[Dict[str, Any]]:
        for one in found:
            record = one.as_dict()
            count[0] += 1
            if record["next"] and not newest:
                newest.append(record["next"])
            yield record

    return _output.Answer(
        items=("found", items()),
        item_line=_line,
        next=lambda: newest or ["stowage list files CLIENT:/PATH"],
        status=lambda: ("WARN" if notes else "OK") if count[0] else "FAIL",
        notes=lambda: [text.escape(note) for note in notes],
    )


def _line(one: Dict[str, Any]) -> str:
    what = "gone" if one["gone"] else "-" if one["kind"] == "d" else text.size(one["size"])
    return f"{one['begun']} {what:>8} {one['client']}:{one['path']}  ({one['source']}, {one['dump']})"
