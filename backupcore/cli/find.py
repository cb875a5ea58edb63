"""`stowage find`: a name, a path or a part of one, over all clients and all dumps, with its versions."""

from __future__ import annotations

import argparse
from typing import Any, Dict, Iterator, List

from .. import clock, text
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """The pattern, where to look, and what else must be true."""
    parser.add_argument("pattern", metavar="PATTERN", help="a name, a path, or a glob: passwd, /etc/passwd, '*.conf'")
    parser.add_argument("--client", metavar="C", help="only this client")
    parser.add_argument("--source", metavar="S", help="only this source")
    parser.add_argument("--substring", action="store_true", help="PATTERN is a part of the name, or of the path")
    parser.add_argument("-i", "--ignore-case", action="store_true", help="capital and small letters are the same")
    parser.add_argument("--larger", metavar="SIZE", help="files of at least this size: 20 MB")
    parser.add_argument("--smaller", metavar="SIZE", help="files of at most this size")
    parser.add_argument("--newer", metavar="TIME", help="last changed then or later: 2026-11-22, '3 days ago'")
    parser.add_argument("--older", metavar="TIME", help="last changed before")
    parser.add_argument("--deleted", action="store_true", help="only what the newest dump no longer has")
    parser.add_argument("--limit", metavar="N", type=int, help="so many paths, 0 for all (default: 1000)")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Finds; nothing found is exit status 1, as with grep."""
    from ..app import listing

    asked = listing.Search(
        args.pattern, args.client, args.source, args.substring, args.ignore_case, args.larger, args.smaller,
        args.newer, args.older, args.deleted, args.limit,
    )  # fmt: skip
    newest: List[str] = []
    count = [0]
    found, notes, unsearched = listing.find(open_engine(), asked, _output.say)

    def items() -> Iterator[Dict[str, Any]]:
        for one in found:
            record = one.as_dict()
            count[0] += 1
            if not newest:
                newest.append(record["next"])
            yield record

    return _output.Answer(
        items=("found", items()),
        item_line=_line,
        next=lambda: newest or ["stowage list files CLIENT:/PATH"],
        status=lambda: ("WARN" if notes else "OK") if count[0] else "FAIL",
        notes=lambda: [text.escape(note) for note in notes],
        tail=lambda: {"unsearched": unsearched},
    )


def _line(one: Dict[str, Any]) -> str:
    what = "folder" if one["kind"] == "d" else "link" if one["kind"] == "l" else text.size(one["size"])
    seen = _local(one["last"]) if one["first"] == one["last"] else f"{_local(one['first'])} .. {_local(one['last'])}"
    gone = f"  GONE {_local(one['gone_since'])}" if one["gone"] else ""
    return f"{seen:<36} {what:>8} {one['client']}:{one['path']}  ({one['source']}, {one['dump']}){gone}"


def _local(moment: str) -> str:
    return clock.local(clock.parse_iso(moment))
