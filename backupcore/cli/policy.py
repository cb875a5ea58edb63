"""`stowage policy`: what holds for a source, where it is written, and what becomes of its next dumps."""

from __future__ import annotations

import argparse
from datetime import date
from typing import Any, Dict, List

from .. import clock, text
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """What is asked, and of which source."""
    parser.add_argument("action", choices=("explain",), help="what is asked")
    parser.add_argument("client", metavar="CLIENT")
    parser.add_argument("source", metavar="SOURCE")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Explains one source."""
    from ..app import explain

    data = explain.explain(open_engine(), args.client, args.source)
    lines = [text.escape(f"{data['client']}:{data['source']}, policy {data['policy']}"), ""]
    rows = [[one["key"], text.escape(one["value"]), text.escape(one["from"])] for one in data["settings"]]
    lines += _output.table(("setting", "value", "from"), rows)
    lines += ["", *_coming(data)] if data["coming"] else ["", "no dump of it is planned"]
    lines += ["", *_targets(data)] if data["targets"] else []
    lines += ["", text.escape(data["holding"])]
    for one in data["without"]:
        why = f"dumps: none, {one['from']}" if one["from"] else "no rule names it"
        lines.append(text.escape(f"nothing goes to {one['target']}: {why}"))
    lines += [f"WARN {text.escape(one)}" for one in data["warnings"]]
    status = "WARN" if data["warnings"] else "OK"
    after = [f"stowage plan --why {args.client}:{args.source}", "stowage stage"]
    return _output.Answer(data, lines, after, status, warnings=len(data["warnings"]))


def _coming(data: Dict[str, Any]) -> List[str]:
    names = [one["target"] for one in data["targets"]]
    rows = []
    for one in data["coming"]:
        cells = [one["targets"][name] for name in names]
        told = [("" if cell["goes"] else "no: ") + cell["why"] for cell in cells]
        rows.append([date.fromisoformat(one["night"]).strftime("%a %d %b"), one["dump"], *told])
    return _output.table(("night", "dump", *names), rows)


def _targets(data: Dict[str, Any]) -> List[str]:
    rows = []
    for one in data["targets"]:
        due = one["due"]
        told = "nothing"
        if due["copies"]:
            told = f"{due['copies']} ({text.size(due['bytes'])}), the oldest of {clock.local(_ns(due['oldest']))}"
        promise = "nothing" if one["promise"] is None else text.duration(one["promise"])
        age = "-" if one["age"] is None else text.duration(one["age"])
        rows.append([one["target"], one["keep"], promise, age, told])
    return _output.table(("target", "keeps", "promised", "newest now", "copies to make now"), rows)


def _ns(iso: str) -> int:
    return clock.parse_iso(iso)
