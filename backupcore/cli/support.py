"""`stowage support`: one archive for whoever helps, without secrets, keys or contents."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from .. import files, text
from ..errors import ConfigError, RequestError, StowageError
from . import _output

LINES = 2000


def add(parser: argparse.ArgumentParser) -> None:
    """Where to, and how much."""
    parser.add_argument("--out", metavar="FILE", help="this new file, 0600; - is standard output (default: a new file "
                        "in <state>/support)")  # fmt: skip
    parser.add_argument("--no-check", action="store_true", help="ask no client and no target anything")
    parser.add_argument("--lines", metavar="N", type=int, default=LINES, help=f"of the journal (default: {LINES})")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """Makes it."""
    from ..app import supporting

    if not 0 < args.lines <= 1_000_000:
        raise RequestError("--lines is 1 to 1000000", "stowage support --lines 5000")
    if args.out == "-" and args.json:
        raise RequestError("--out - does not go with --json", "--out FILE")
    if args.out not in (None, "-") and Path(args.out).exists():
        raise RequestError(f"{args.out} is there already", "give a new name, or remove it")
    engine, wrong = None, None
    try:
        engine = open_engine()
    except ConfigError as error:  # that may be what help is wanted with
        wrong = error
    made = supporting.make(engine, args.lines, not args.no_check, wrong)
    lines = [f"WARN {one}" for one in made.failed] + ([f"WARN {text.escape(wrong.message)}"] if wrong else [])
    status = "WARN" if lines else "OK"
    if args.out == "-":
        sys.stdout.buffer.write(made.data)
        sys.stdout.buffer.flush()
        for line in lines:
            _output.say(line)
        return _output.Answer(status=status, warnings=len(lines))
    path = _write(Path(args.out).absolute() if args.out else _folder(engine) / made.name, made.data)
    lines.append(f"{status:4s} {path}, {text.size(len(made.data))}: {len(made.pieces)} files, no secrets, no contents; "
                 "names of clients, sources and files that failed are in it")  # fmt: skip
    return _output.Answer(
        {"out": str(path), "bytes": len(made.data), "pieces": list(made.pieces), "failed": list(made.failed)},
        lines, [f"tar -tzf {path}"], status, warnings=len(lines) - 1,
    )  # fmt: skip


def _folder(engine: Any) -> Path:
    return engine.settings.state / "support" if engine is not None else Path(tempfile.gettempdir())


def _write(path: Path, data: bytes) -> Path:
    """The file, whole or not at all."""
    try:
        if path.parent.name == "support":
            files.make_folder(path.parent)
        fd = files.create(path)
    except FileExistsError:
        raise RequestError(f"{path} is there already", "give a new name, or remove it") from None
    except OSError as error:
        raise StowageError(f"{path}: {error.strerror}", "stowage support --out FILE elsewhere") from None
    try:
        with contextlib.closing(open(fd, "wb", closefd=True)) as stream:
            stream.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise StowageError(f"{path}: {error.strerror}", "stowage support --out FILE elsewhere") from None
    return path
