"""<state>/audit.log: one JSON object a line, each with the digest of what stands before it.

Here live the file's format, its one writer at a time, and reading. An entry is written by one write behind the end of
the file and synced before append() returns. What a kill or a power cut left of an entry stays where it is: the next
entry says how long that is (`torn`), and its digest covers it, so that nothing in the file is ever changed. What broken
chains mean is chain.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional, Tuple

from .. import clock, files
from ..errors import AuditFailed

NAME = "audit.log"
LONGEST = 32 << 10  # bytes of an entry
BACK = 1 << 20  # bytes behind the last entry that may be something else
EMPTY = hashlib.sha256(b"").hexdigest()
WAIT = 30.0  # seconds for the one who writes
BEGIN, END, ONCE = "begin", "end", "once"  # phases: an act has two entries; what has no length has one
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_WORDS, _LIST = 400, 200  # what of a text and of a list is kept


@dataclass(frozen=True)
class Entry:
    """One line. act: number of the entry with which the act began. before: digest of what stands before; torn: how many
    bytes of it are no entry. at, end: where the line stands in the file."""

    seq: int
    act: int
    phase: str
    time: str
    verb: str
    what: Mapping[str, Any]
    outcome: str
    who: Mapping[str, Any]
    config: str
    before: str
    torn: int = 0
    at: int = 0
    end: int = 0

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {
            "seq": self.seq, "act": self.act, "phase": self.phase, "time": self.time, "verb": self.verb,
            "what": dict(self.what), "outcome": self.outcome, "who": dict(self.who), "config": self.config,
        }  # fmt: skip


@dataclass(frozen=True)
class Head:
    """The end of the log: number of its last entry, digest of the line (0 and that of nothing: there is none)."""

    seq: int = 0
    sha256: str = EMPTY


def log_file(state: Path) -> Path:
    """Where it is."""
    return Path(state) / NAME


def append(
    state: Path, phase: str, verb: str, what: Mapping[str, Any], who: Mapping[str, Any], *, act: int = 0,
    outcome: str = "", config: str = "",
) -> Entry:  # fmt: skip
    """Puts an entry at the end, for good. act: the number that the begin had, of an end. Raises AuditFailed: nothing,
    or no whole entry, was written then."""
    path = log_file(state)
    try:
        with _opened(path) as fd:
            last, size = _last(fd)
            gap = _between(fd, last, size)
            seq = (last.seq if last else 0) + 1
            plain = {
                "seq": seq, "act": act or seq, "phase": phase, "time": clock.iso(clock.now_ns()), "verb": verb,
                "what": _short(what), "outcome": _short(outcome), "who": _short(who), "config": config,
            }  # fmt: skip
            digest = hashlib.sha256(os.pread(fd, last.end - last.at, last.at) if last else b"")
            cut = b"\n" if gap and not gap.endswith(b"\n") else b""
            digest.update(gap + cut)
            if gap:
                plain["torn"] = len(gap + cut)
            line = _line(plain, digest.hexdigest())
            _write(fd, cut + line, size)
            begin = size + len(cut)
    except (OSError, UnicodeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise AuditFailed(f"{path} cannot be written: {told}", "df " + str(path.parent)) from None
    found = parse(line, begin, begin + len(line))
    assert found is not None
    return found


def _line(plain: Dict[str, Any], before: str) -> bytes:
    line = _dump({**plain, "before": before})
    if len(line) > LONGEST:  # many long names: who did it and to what verb stays
        line = _dump({**plain, "what": {"cut": f"{len(line)} bytes"}, "outcome": plain["outcome"][:_WORDS],
                      "before": before})  # fmt: skip
    return line


def _dump(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, ensure_ascii=True, separators=(",", ":"), default=str).encode("ascii") + b"\n"


def _write(fd: int, data: bytes, size: int) -> None:
    try:
        files.write_all(fd, data)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk: what came of it goes, where the file may be made shorter
            os.ftruncate(fd, size)
        raise
    os.fsync(fd)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, made when it is not there, locked by this process alone."""
    files.make_folder(path.parent)
    while True:
        new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            there = os.fstat(fd)
            if not stat.S_ISREG(there.st_mode):
                raise OSError(0, "it is no file")
            _lock(fd)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), there):  # else somebody put it aside while this one waited
                    if os.geteuid() == 0:  # root's acts stand in the log of whom the state belongs to
                        owner = files.owner_of_state(path.parent)
                        if owner != (there.st_uid, there.st_gid):
                            os.fchown(fd, *owner)
                    if new:
                        files.sync_folder(path.parent)
                    yield fd
                    return
        finally:
            os.close(fd)


def _lock(fd: int) -> None:
    until = time.monotonic() + WAIT
    while True:  # one that was stopped by a debugger must not stop a restore
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(0, f"another process has held it for {WAIT:.0f} seconds") from None
            time.sleep(0.02)


def _last(fd: int) -> Tuple[Optional[Entry], int]:
    """The last whole entry (None: there is none in the whole file), and the file's size. Raises OSError when what
    stands at the end is far too long for the rest of one entry."""
    size = os.fstat(fd).st_size
    begin = max(0, size - BACK - LONGEST)
    data = os.pread(fd, size - begin, begin)
    end = len(data)
    while end > 0:
        at = data.rfind(b"\n", 0, end - 1) + 1
        if data.endswith(b"\n", at, end) and (at or not begin):
            found = parse(data[at:end], begin + at, begin + end)
            if found is not None:
                return found, size
        end = at
    if begin:
        raise OSError(0, "its end holds no entry: stowage audit verify")
    return None, size


def _between(fd: int, last: Optional[Entry], size: int) -> bytes:
    at = last.end if last else 0
    return os.pread(fd, size - at, at)


def parse(line: bytes, at: int = 0, end: int = 0) -> Optional[Entry]:
    """The entry that is this line, newline included; None when it is none."""
    if not line.endswith(b"\n") or len(line) > LONGEST:
        return None
    try:
        plain = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    kinds = {"seq": int, "act": int, "phase": str, "time": str, "verb": str, "what": dict, "outcome": str, "who": dict,
             "config": str, "before": str}  # fmt: skip
    if not isinstance(plain, dict) or any(type(plain.get(name)) is not kind for name, kind in kinds.items()):
        return None
    torn = plain.get("torn", 0)
    if type(torn) is not int or torn < 0 or plain["seq"] < 1 or not _HEX.match(plain["before"]):
        return None
    return Entry(**{name: plain[name] for name in kinds}, torn=torn, at=at, end=end)


@contextlib.contextmanager
def reading(state: Path) -> Iterator[Optional[BinaryIO]]:
    """The file, to be read; None when there is none. Raises AuditFailed."""
    path = log_file(state)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise AuditFailed(f"{path} cannot be read: {error.strerror}", "run it as root") from None
    with open(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AuditFailed(f"{path} is no file", f"move it away: mv {path} {path}.odd")
        yield stream


def lines(stream: BinaryIO) -> Iterator[Tuple[bytes, int]]:
    """(line with its newline, where it stands); what is longer than an entry comes in pieces without one."""
    at = 0
    while True:
        line = stream.readline(LONGEST + 1)
        if not line:
            return
        yield line, at
        at += len(line)


def entries(state: Path) -> Iterator[Entry]:
    """All that can be read, oldest first; whether they are as they were written is chain.check()."""
    with reading(state) as stream:
        for line, at in lines(stream) if stream else ():
            found = parse(line, at, at + len(line))
            if found is not None:
                yield found


def head(state: Path) -> Head:
    """The end of the log, as records of runs sign it. Raises AuditFailed."""
    with reading(state) as stream:
        if stream is None:
            return Head()
        try:
            last, _size = _last(stream.fileno())
            if last is None:
                return Head()
            return Head(last.seq, hashlib.sha256(os.pread(stream.fileno(), last.end - last.at, last.at)).hexdigest())
        except OSError as error:
            raise AuditFailed(f"{log_file(state)}: {error.strerror}", "stowage audit verify") from None


def last(state: Path) -> Optional[Entry]:
    """The last entry, None when there is none. Raises AuditFailed."""
    with reading(state) as stream:
        if stream is None:
            return None
        try:
            return _last(stream.fileno())[0]
        except OSError as error:
            raise AuditFailed(f"{log_file(state)}: {error.strerror}", "stowage audit verify") from None


def _short(value: Any) -> Any:
    """value without what would make a line long: an entry says what was done, not all of it."""
    if isinstance(value, str):
        plain = value.encode("utf-8", "backslashreplace").decode("utf-8")
        return plain if len(plain) <= _WORDS else f"{plain[:_WORDS]} (and {len(plain) - _WORDS} characters more)"
    if isinstance(value, Mapping):
        return {str(key): _short(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        kept: List[Any] = [_short(one) for one in list(value)[:_LIST]]
        return kept + ([f"and {len(value) - _LIST} more"] if len(value) > _LIST else [])
    return value if value is None or isinstance(value, (int, float, bool)) else _short(str(value))
