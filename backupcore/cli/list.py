"""`stowage list`: runs, dumps, copies from the catalog; files at a moment from the indexes."""

from __future__ import annotations

import argparse
import stat
from typing import Any, Dict, List

from .. import clock, text
from ..errors import RequestError
from ..restore.report import shell_word
from . import _keys, _output, _place

NEWEST = 100
_KINDS = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "c": stat.S_IFCHR, "b": stat.S_IFBLK,
          "p": stat.S_IFIFO}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """What to list, and which."""
    what = ("runs", "dumps", "copies", "files")
    parser.add_argument("what", choices=what, help="what to list")
    parser.add_argument("words", nargs="*", metavar="CLIENT:/PATH", help="files: what to list, as restore takes it")
    parser.add_argument("--client", metavar="C", help="dumps, copies: only of this client")
    parser.add_argument("--source", metavar="S", help="dumps, copies: only of this source")
    parser.add_argument("--target", metavar="T", help="dumps, copies: only what this target holds")
    parser.add_argument("--limit", metavar="N", type=int, default=NEWEST,
                        help=f"runs, dumps, copies: the newest N, 0 for all (default: {NEWEST})")  # fmt: skip
    parser.add_argument("--at", metavar="TIME", help="files: at this moment (default: now)")
    parser.add_argument("--recursive", action="store_true", help="files: all that lies below, too")
    parser.add_argument("--from", metavar="PLACE", dest="place",
                        help="dumps, copies, files: those of s3://BUCKET/PREFIX, file:///FOLDER or a folder, without "
                        "any server")  # fmt: skip
    _place.add_options(parser)
    _keys.add_options(parser)


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """One of the four lists."""
    from ..app import listing

    if args.what != "files" and args.words:
        raise RequestError(f"list {args.what} takes no {text.escape(args.words[0])!r}", "stowage list --help")
    if args.what == "files" and not args.words:
        raise RequestError("list files of what?", "stowage list files CLIENT:/PATH")
    engine = _place_or_server(args, open_engine)
    limit = listing.check_limit(args.limit)
    if args.what == "files":
        return _files(args, engine)
    if args.what == "runs":
        return _table("runs", listing.runs(engine, limit), _run_row, ("run", "kind", "begun", "took", "", "summary"),
                      ["stowage report --run RUN"], limit)  # fmt: skip
    chosen = (args.client, args.source, args.target, limit)
    if args.what == "dumps":
        head = ("dump", "source", "level", "begun", "stored", "files", "where")
        place, to = _place.again(args), " --to DIR" if args.place else ""
        after = [f"stowage list files CLIENT:/PATH --at DUMP{place}",
                 f"stowage restore CLIENT:/PATH --at DUMP{place}{to}"]  # fmt: skip
        answer = _table("dumps", listing.dumps(engine, *chosen), _dump_row, head, after, limit)
        answer.notes = [text.escape(note) for note in listing.only_recent(engine, args.client, args.source)]
        return answer
    head = ("dump", "source", "level", "target", "state", "bytes", "verified", "error")
    return _table("copies", listing.copies(engine, *chosen), _copy_row, head, ["stowage stage"], limit)


def _place_or_server(args: argparse.Namespace, open_engine: Any) -> Any:
    if not _place.given(args):
        if args.place is not None:
            raise RequestError(f"--from {text.escape(args.place)!r} is no place; for a target: --target", _place.HINT)
        return open_engine()
    if args.what == "runs":
        raise RequestError("list runs knows no --from", "stowage list dumps --from PLACE")
    clients = [args.client] if args.client else []
    if args.what == "files":
        from ..app import restoring

        clients = [restoring.client_of(args.words)]
    return _place.open_loose(args, open_engine, tuple(clients))


def _table(name: str, records: List[Dict[str, Any]], row: Any, head: tuple, after: List[str], limit: Any) -> Any:
    lines = _output.table(head, [row(one) for one in records]) or [f"there are no {name}"]
    if limit and len(records) == limit:
        lines.append(f"the newest {limit}; --limit 0 shows all")
    return _output.Answer({name: records}, lines, after if records else ["stowage run"])


def _run_row(one: Dict[str, Any]) -> List[str]:
    took = "" if one["seconds"] is None else text.duration(one["seconds"])
    summary = one["summary"]
    told = summary.get("headline") or " ".join(str(word) for word in summary.get("what", ()))
    return [one["run"], one["kind"], clock.local(one["begun_ns"]), took, one["status"] or "not ended",
            text.escape(str(told))]  # fmt: skip


def _source(one: Dict[str, Any]) -> str:
    return f"{one['client']}:{one['source']}" + (f".{one['segment']}" if one["segment"] else "")


def _dump_row(one: Dict[str, Any]) -> List[str]:
    where = (["holding"] if one["holding"] else []) + [
        name if state == "verified" else f"{name} ({state})" for name, state in sorted(one["copies"].items())
    ]
    return [
        one["dump"], _source(one), "interim" if one["newer"] else str(one["level"]), clock.local(one["begun_ns"]),
        text.size(one["stored_size"]), "-" if one["files"] is None else str(one["files"]),
        ", ".join(where) + (" DAMAGED" if one["damaged"] else ""),
    ]  # fmt: skip


def _copy_row(one: Dict[str, Any]) -> List[str]:
    verified = one["verified"] or ""
    state = one["state"] + (" (marked)" if one["marked"] else "")
    until = clock.parse_iso(one["locked"]) if one["locked"] else 0
    state += f" (locked until {clock.local(until)[:10]})" if until > clock.now_ns() else ""
    return [one["dump"], _source(one), str(one["level"]), one["target"], state,
            text.size(one["bytes"]), verified, text.escape(one["error"])]  # fmt: skip


def _files(args: argparse.Namespace, engine: Any) -> _output.Answer:
    from ..app import restoring

    notes: List[str] = []
    ring = _keys.ring(args, engine.settings)
    found = restoring.files(engine, args.words, args.at, args.recursive, ring, notes)
    words = " ".join(map(shell_word, args.words))
    at = f" --at {shell_word(args.at)}" if args.at else ""
    return _output.Answer(
        items=("files", (one.as_dict() for one in found)),
        item_line=_file_line,
        next=[f"stowage restore {words}{at}{_place.again(args)}" + (" --to DIR" if args.place else "")],
        notes=lambda: [text.escape(note) for note in notes],
    )


def _file_line(one: Dict[str, Any]) -> str:
    if one["kind"] == "n":
        return f"{'not dumped':<32} {one['path']}  ({one['link']})"
    mode = stat.filemode(_KINDS.get(one["kind"], 0) | int(one["mode"]))
    when = clock.local(one["mtime_ns"]) if -62e18 < one["mtime_ns"] < 250e18 else "?"
    link = f" -> {one['link']}" if one["link"] else ""
    return f"{mode} {one['uid']:>5} {one['gid']:>5} {one['size']:>13} {when} {one['path']}{link}"
