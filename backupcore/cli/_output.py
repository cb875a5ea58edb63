"""How answers and errors reach people and programs: text, JSON and the exit status.

Here live Answer, the one place that prints, and the one that maps an error to words; what is said is made
in the verbs. Everything that may come from a client is escaped before it gets here.
"""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from .. import __version__, clock, files, text
from ..errors import StowageError

SCHEMA = 1
_WORDS = {"OK": "ok", "WARN": "warn", "FAIL": "fail"}


@dataclass
class Answer:
    """What a verb answers.

    lines: for people. data: for programs. items: a long list that is written as it comes, under a name in JSON and
    by item_line as text. status: OK, WARN, FAIL; warnings: --strict makes them count. notes: what could not be done,
    told as warnings. status, next and notes may be callables, asked when the last item is out; tail: one that gives
    what else JSON has behind the items. audit: what the audit log keeps of it, where the verb stands in it.
    """

    data: Dict[str, Any] = field(default_factory=dict)
    lines: Iterable[str] = ()
    next: Any = ()
    status: Any = "OK"
    warnings: int = 0
    items: Optional[Tuple[str, Iterable[Dict[str, Any]]]] = None
    item_line: Optional[Callable[[Dict[str, Any]], str]] = None
    notes: Any = ()
    tail: Any = None
    audit: Dict[str, Any] = field(default_factory=dict)


def give(answer: Answer, as_json: bool, strict: bool) -> int:
    """Writes the answer to standard output; returns the exit status."""
    if as_json:
        status = _give_json(answer)
    else:
        for line in answer.lines:
            _line(line)
        if answer.items is not None:
            for item in answer.items[1]:
                _line(answer.item_line(item))
        status = _now(answer.status)
        for note in _now(answer.notes):
            _line("WARN " + note)
        for command in _now(answer.next):
            _line("-> " + command)
    sys.stdout.flush()
    return 1 if status == "FAIL" or strict and (status == "WARN" or answer.warnings) else 0


def _give_json(answer: Answer) -> str:
    head = {"schema": SCHEMA, **answer.data}
    out = sys.stdout
    if answer.items is not None:
        name, items = answer.items
        out.write(json.dumps(head, ensure_ascii=True, default=str)[:-1] + f', "{name}": [')
        between = "\n"
        try:
            for item in items:
                out.write(between + json.dumps(item, ensure_ascii=True, default=str))
                between = ",\n"
        except StowageError as error:
            # what was written stays readable: the error is told in the same object
            out.write("\n], " + json.dumps({"status": "fail", "error": error.as_dict()})[1:] + "\n")
            return "FAIL"
        tail = {
            **(_now(answer.tail) or {}), "status": _WORDS[_now(answer.status)], "notes": list(_now(answer.notes)),
            "next": list(_now(answer.next)),
        }  # fmt: skip
        out.write("\n], " + json.dumps(tail)[1:] + "\n")
        return _now(answer.status)
    head.update(status=_WORDS[_now(answer.status)], next=list(_now(answer.next)))
    out.write(json.dumps(head, ensure_ascii=True, default=str) + "\n")
    return _now(answer.status)


def word(status: Any) -> str:
    """A status as JSON has it."""
    return _WORDS[_now(status)]


def _now(value: Any) -> Any:
    return value() if callable(value) else value


def take_whole() -> None:
    """Makes standard output take all that it is given. By `python -u` and PYTHONUNBUFFERED it is a raw file: a process
    that is stopped while a full pipe lets it wait loses, untold, what its write() had left."""
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        words = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors, "line_buffering": True}
        sys.stdout = io.TextIOWrapper(open(raw.fileno(), "wb", closefd=False), **words)


def line(words: str) -> None:
    """A line of an answer that goes on, at once."""
    _line(words)
    sys.stdout.flush()


def write(words: str) -> None:
    """Words of our own for a terminal, as they are."""
    sys.stdout.write(words)


def _line(line: str) -> None:
    # a file name may hold any bytes; text.escape made them printable, but the terminal may know less than UTF-8
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def tell_error(error: StowageError, as_json: bool) -> int:
    """One line on standard error, or the error as JSON on standard output; returns the exit status."""
    if as_json:
        answer = {"schema": SCHEMA, "status": "fail", "error": error.as_dict(), "next": _next_of(error)}
        if getattr(error, "others", None):
            answer["others"] = list(error.others)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        return error.exit_status
    say(one_line(error))
    for message in getattr(error, "others", ()):
        say(text.escape(message))
    return error.exit_status


def one_line(error: StowageError) -> str:
    """`client:source: message -> hint`; client and source only where the message does not name them."""
    where = ":".join(name for name in (error.client, error.source) if name)
    message = error.message if not error.client or error.client in error.message else f"{where}: {error.message}"
    return text.escape(message + (f" -> {error.hint}" if error.hint else ""))


def _next_of(error: StowageError) -> List[str]:
    return [error.hint] if error.hint.startswith("stowage ") else []


def say(line: str) -> None:
    """One line on standard error."""
    encoding = sys.stderr.encoding or "utf-8"
    try:
        sys.stderr.write("stowage: " + line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody listens


def tell_bug(error: BaseException, argv: List[str], folder: Optional[Path], as_json: bool) -> int:
    """A failure that no error class stands for: one line on the screen, the traceback in a file."""
    import traceback

    trace = "".join(traceback.format_exception(error))
    told = f"{type(error).__name__} in {_where(error)}"
    file = _keep_trace(folder, f"stowage {__version__}, python {sys.version}\n{argv}\n\n{trace}")
    hint = f"report it with {file}" if file else "run it as root to keep a traceback, and report it"
    bug = StowageError(f"this is a bug of stowage: {told}", hint)
    bug.code = "bug"
    return tell_error(bug, as_json)


def _where(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if os.sep + "backupcore" + os.sep in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"


def _keep_trace(folder: Optional[Path], trace: str) -> Optional[Path]:
    import tempfile

    for place in (folder, Path(tempfile.gettempdir()) / f"stowage-bugs-{os.getuid()}"):
        if place is None:
            continue
        try:
            files.make_folder(place)
            path = place / f"{clock.stamp(clock.now_ns())}-{os.getpid()}.txt"
            files.write_synced(path, trace.encode("utf-8", "backslashreplace"))
            return path
        except OSError:
            continue
    return None


def table(head: Iterable[str], rows: List[List[Any]]) -> List[str]:
    """A table of text cells as lines; nothing is read as a number."""
    from ..report.text import table as draw

    return draw(list(head), [[str(cell) for cell in row] for row in rows]).split("\n") if rows else []
