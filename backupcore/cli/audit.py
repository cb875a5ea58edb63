"""`stowage audit`: who restored, pruned, held, changed keys or targets; and whether that log is whole."""

from __future__ import annotations

import argparse
import json
from typing import Any, Dict, List

from .. import clock, text
from ..errors import RequestError
from . import _output

_OPTIONS = {"verify": ("target", "last_run"), "list": ("limit", "verb")}


def add(parser: argparse.ArgumentParser) -> None:
    """What to do."""
    parser.add_argument("what", choices=("verify", "list"), help="what to do")
    parser.add_argument("--target", metavar="T", action="append", default=[],
                        help="verify: also by the signed records of runs there; may be repeated")  # fmt: skip
    parser.add_argument("--last-run", metavar="FILE", help="verify: also by this record of a run, RUN.json with "
                        "RUN.sig beside it")  # fmt: skip
    parser.add_argument("--limit", metavar="N", type=int, help="list: the last N acts (default: 50; 0: all)")
    parser.add_argument("--verb", metavar="V", help="list: only these, such as restore or `key rewrap`")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Verifies, or lists."""
    for options in _OPTIONS.values():
        for option in options:
            if getattr(args, option) not in (None, []) and option not in _OPTIONS[args.what]:
                raise RequestError(f"audit {args.what} takes no --{option.replace('_', '-')}", "stowage audit --help")
    if args.limit is not None and args.limit < 0:
        raise RequestError("--limit is a number of acts", "stowage audit list --limit 100")
    return _verify(args, open_engine()) if args.what == "verify" else _list(args, open_engine())


def _verify(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import auditing

    found = auditing.verify(engine, args.target, args.last_run)
    checked = found.checked
    lines = [f"     line {line}: cut by a kill or a power cut; the entries go on behind it" for line in checked.torn]
    lines += [f"WARN {text.escape(one)}" for one in found.strange]
    if checked.missing:
        told = "with the server that was rebuilt, if it was" if found.rebuilt else "it was taken away"
        lines.append(f"{'WARN' if found.rebuilt else 'FAIL'} {text.escape(checked.missing)}: {told}")
    if checked.broken is not None:
        where = f"line {checked.broken.line}: " if checked.broken.line else ""
        good = f"; the {checked.entries} entries before it are whole" if checked.entries else ""
        lines.append(f"FAIL {where}{text.escape(checked.broken.message)}{good}")
    elif not checked.entries:
        lines.append("OK   nothing was noted yet")
    else:
        places = ", ".join(f"{count} {name}" for name, count in found.records.items() if count)
        records = f"; {checked.fitting} signed ends of runs fit ({places})" if checked.fitting else ""
        word = "    " if found.status == "FAIL" else f"{found.status:4s}"
        lines.append(f"{word} {checked.entries} entries from {_local(checked.first)} to "
                     f"{_local(checked.last)} are as they were written{records}")  # fmt: skip
    data: Dict[str, Any] = {
        "entries": checked.entries, "first": checked.first, "last": checked.last, "torn": checked.torn,
        "broken": {"line": checked.broken.line, "message": checked.broken.message} if checked.broken else None,
        "missing": checked.missing, "records": found.records, "fitting": checked.fitting, "strange": found.strange,
    }  # fmt: skip
    after = ["stowage audit list"]
    others = [name for name in engine.settings.targets if name not in args.target]
    if others:
        after = [f"stowage audit verify --target {others[0]}", *after]
    return _output.Answer(data, lines, after, found.status, len(found.strange))


def _list(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import auditing

    found = [one.as_dict() for one in auditing.acts(engine, args.verb, 50 if args.limit is None else args.limit)]
    rows = [[_local(one["time"]), text.escape(one["by"]), text.escape(one["verb"]), _words(one["what"]),
             text.escape(one["outcome"]), _words(one["result"])] for one in found]  # fmt: skip
    lines = _output.table(("when", "who", "what", "", "outcome", ""), rows) or ["nothing was noted yet"]
    if any(one["outcome"] == "no end" for one in found):
        lines.append("     no end: it was killed, or is at work")
    return _output.Answer({"acts": found}, lines, ["stowage audit verify"])


def _words(what: Dict[str, Any]) -> str:
    """A few words of what an entry holds; --json has all."""
    told: List[str] = []
    for name, value in what.items():
        if value in (None, "", [], 0):  # False, too
            continue
        if isinstance(value, bool):
            told.append(name)
            continue
        if isinstance(value, list):
            value = ", ".join(one if isinstance(one, str) else json.dumps(one) for one in value)
        told.append(value if name in ("words", "name") else f"{name} {value}")
    line = text.escape("; ".join(str(one) for one in told))
    return line if len(line) <= 80 else line[:77] + "..."


def _local(iso: str) -> str:
    try:
        return clock.local(clock.parse_iso(iso))
    except ValueError:
        return text.escape(iso)
