"""`stowage drill`: restore something of every client from the farthest copy, compare, and take it away again."""

from __future__ import annotations

import argparse
from typing import Any, List

from .. import text
from ..errors import RequestError
from ..report import proven
from ..report.night import count
from ..restore.report import shell_word
from . import _keys, _output, _progress

_STATUS = {"proven": "OK", "failed": "FAIL", "sealed": "WARN", "unproven": "WARN"}


def add(parser: argparse.ArgumentParser) -> None:
    """Whom, how much, from where, and with which keys."""
    parser.add_argument("--client", metavar="C", action="append", default=[], help="only this client; may be repeated")
    parser.add_argument("--files", metavar="N", type=int, help="so many files of each client (default: drill.files)")
    parser.add_argument("--target", metavar="T", help="from this target, or holding (default: what is farthest away)")
    parser.add_argument("--small", action="store_true", help="as at night: so many files in all, one small source")
    parser.add_argument("--plan", action="store_true", help="only say what would be tried; the next drill draws others")
    _keys.add_options(parser)


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Drills, or says what a drill would try."""
    from ..app import drilling

    engine = open_engine()
    if args.files is not None and not 1 <= args.files <= 1000:
        raise RequestError("--files is a number from 1 to 1000", "stowage drill --help")
    asked = drilling.Asked(
        args.client, args.files, args.target, _keys.ring(args, engine.settings), args.small,
        engine.settings.drill.time if args.small else None,
    )  # fmt: skip
    if args.plan:
        return _plan(drilling.plan(engine, asked), args)
    with _progress.progress(args.json) as progress:
        done = drilling.drill(engine, asked, progress)
    return _answer(done, drilling.state(engine))


def _plan(picks: List[Any], args: argparse.Namespace) -> _output.Answer:
    rows = [
        [f"{one.wanted.client}:{one.wanted.source}", one.what, one.place, one.files, text.size(one.bytes)]
        for one in picks
    ]
    lines = _output.table(("source", "what", "from", "files", "size"), rows)
    size = sum(one.bytes for one in picks)
    lines.append(f"{count(len(picks), 'restore')}, {count(sum(one.files for one in picks), 'file')}, {text.size(size)}")
    words = ["stowage", "drill"]
    for name in args.client:
        words += ["--client", name]
    words += ["--files", str(args.files)] if args.files is not None else []
    words += ["--target", args.target] if args.target else []
    words += ["--small"] if args.small else []
    data = {"picks": [one.as_dict() for one in picks], "bytes": size, "lines": lines}
    return _output.Answer(data, lines, [" ".join(map(shell_word, words))])


def _answer(done: Any, state: proven.Proven) -> _output.Answer:
    lines: List[str] = []
    for one in sorted(done.results, key=lambda one: ("FAIL", "WARN", "OK").index(_STATUS[one.status])):
        lines.append(_line(one))
        if one.note:
            lines.append(f"     {one.client}:{one.source} {one.note}")
    tried = {one.client for one in done.results}
    for client, estimate in sorted(done.estimates.items()):
        if client in tried:
            lines.append(f"     all of {proven.estimated(client, estimate)}, {text.size(estimate['bytes'])}")
    lines += [f"WARN {client} has no copy to restore from" for client in done.without]
    lines += [f"     {text.escape(one)} sleeps in an archive: passed over" for one in done.asleep]
    if done.stopped:
        lines.append("WARN the time was over before the end")
    cost = "".join(f", {proven.money(amount, name)}" for name, amount in sorted(done.money.items()))
    good = sum(one.status == "proven" for one in done.results)
    files = count(sum(one.files for one in done.results), "file")
    size = text.size(sum(one.bytes for one in done.results))
    sealed = [one for one in done.results if one.status == "sealed"]
    status = "WARN" if done.status == "OK" and (done.without or sealed) else done.status
    again = [one.hint for one in done.results if one.status != "proven" and one.hint.startswith("stowage ")]
    if sealed and len({one.client for one in sealed}) > 1:
        again = ["stowage drill --key FILE", *(hint for hint in again if "--key" not in hint)]
    all_of_them = count(len(done.results), "restore")
    if sealed and len(sealed) == len(done.results):  # whoever reads only the last line must not take it for a proof
        lines.append(f"{status:4s} nothing could be proven: {all_of_them} of sealed dumps, and no private key at hand "
                     f"opens them -> {again[0]}")  # fmt: skip
    else:
        unopened = f" ({len(sealed)} sealed, no private key at hand)" if sealed else ""
        lines.append(f"{status:4s} {good} of {all_of_them} proven{unopened}: {files}, {size} in "
                     f"{text.duration(done.seconds)}{cost}")  # fmt: skip
    lines += [state.line] if state.line else []
    return _output.Answer(
        data={
            "results": [one.as_dict() for one in done.results], "estimates": done.estimates, "money": done.money,
            "without": list(done.without), "asleep": list(done.asleep), "stopped": done.stopped,
            "seconds": round(done.seconds, 3), "proven": state.as_dict(), "lines": lines,
        },
        lines=lines,
        next=list(dict.fromkeys(again))[:3] or ["stowage report"],
        status=status,
        warnings=sum(_STATUS[one.status] == "WARN" for one in done.results) + len(done.without) + done.stopped,
    )  # fmt: skip


def _line(one: Any) -> str:
    what = "all of it" if one.what == "source" else count(one.files, "file") if one.files else "files"
    where = f"{what} from {one.place}" + (" to this server" if one.where == "server" else "")
    begin = f"{_STATUS[one.status]:4s} {one.client}:{one.source} {where}"
    if one.status == "proven":
        return f"{begin}, {text.size(one.bytes)} in {text.duration(one.seconds)}"
    return f"{begin}: {one.message}" + (f" -> {one.hint}" if one.hint else "")
