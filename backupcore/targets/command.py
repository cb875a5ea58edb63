"""The target `command`: any program that can put, get, list and delete files, such as rclone or a script.

Here lives the protocol between Stowage and such programs (docs/targets.md has it in full) and what makes a
target of it: checked sizes, whole files only, nothing said that was not looked at. Not here: how a program is
run (_command_run.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backupcore.hookspecs import (
    Finding,
    Stored,
    TargetCapabilities,
    TargetContext,
    TargetDriver,
    TargetError,
    WrongDigest,
    safe_name,
    to_the_end,
)

from . import _streaming as streaming
from ._command_run import PIECE, Gone, Run, environment
from ._command_stream import CommandStream
from ._prove import INCOMING, proven

MOST_LINES = 1_000_000
_LONGEST_LINE = 4096
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
# verb: (placeholders it must have, others it may have)
_KNOWN = {
    "put": ({"name"}, {"path", "size"}),
    "get": ({"name"}, {"offset", "length", "last"}),
    "list": (set(), {"prefix", "folder"}),
    "delete": ({"name"}, set()),
    "stat": ({"name"}, set()),
    "move": ({"from", "to"}, set()),
}


class CommandOptions(BaseModel):
    """Argument lists, one a verb. missing: exit statuses that say `it is not there`."""

    model_config = ConfigDict(extra="forbid")

    put: List[str] = Field(min_length=1)
    get: List[str] = Field(min_length=1)
    list: List[str] = Field(min_length=1)
    delete: List[str] = Field(min_length=1)
    stat: Optional[List[str]] = Field(default=None, min_length=1)
    move: Optional[List[str]] = Field(default=None, min_length=1)
    missing: List[int] = Field(default=[])
    credentials: Optional[Path] = None
    parallel: int = Field(default=4, ge=1, le=64)
    timeout: float = Field(default=300, gt=0, le=86_400)
    longest: float = Field(default=43_200, gt=0, le=604_800)

    @model_validator(mode="after")
    def _placeholders(self) -> "CommandOptions":
        for verb, (needed, more) in _KNOWN.items():
            arguments = getattr(self, verb)
            if arguments is None:
                continue
            found = {word for argument in arguments for word in _PLACEHOLDER.findall(argument)}
            if not arguments[0] or any("\0" in argument for argument in arguments):
                raise ValueError(f"{verb}: the first argument is the program")
            if needed - found:
                raise ValueError(f"{verb}: {{{sorted(needed - found)[0]}}} is missing in its arguments")
            wrong = sorted(found - needed - more - {"credentials"})
            if wrong:
                raise ValueError(f"{verb}: {{{wrong[0]}}} means nothing here")
            if "credentials" in found and not self.credentials:
                raise ValueError(f"{verb}: {{credentials}} needs the option credentials: FILE")
        words = set(_PLACEHOLDER.findall(" ".join(self.get)))
        if words & {"offset", "length", "last"} and not ("offset" in words and words & {"length", "last"}):
            raise ValueError("get: a range needs {offset} and {length} (or {last})")
        return self


class CommandTarget:
    """A place that is reached by programs only."""

    def __init__(self, options: CommandOptions, context: TargetContext):
        self._options = options
        self._context = context
        self._incoming = f"{INCOMING}/{context.server_id}/"
        self._ranged = "offset" in _PLACEHOLDER.findall(" ".join(options.get))
        told = _PLACEHOLDER.findall(" ".join(options.put))
        self._by_path = "path" in told
        self._streams = "path" not in told and "size" not in told
        self.folder = context.folder
        self._putting = threading.BoundedSemaphore(options.parallel)
        self.place = f"target {context.name}"

    @property
    def capabilities(self) -> TargetCapabilities:
        """Ranges when `get` takes them, streams when `put` reads and needs no size; files are protected by a look."""
        return TargetCapabilities(
            ranged_reads=self._ranged, overwrite_protection=False, delete=True, streams=self._streams
        )  # fmt: skip

    # -- the contract

    def put(self, name, path, *, if_absent=False, sha256=None, resume=None, checkpoint=None, progress=None,
            pace=None) -> Stored:  # fmt: skip
        """Stores the file, with `move` by way of `.stowage/incoming`; begins anew after a failure, so never pauses."""
        safe_name(name)
        with self._putting:
            if pace:
                pace(0)
            before = self.before(name, if_absent)
            size = _checked(Path(path), sha256)
            at = self.temporary() if self._options.move else name
            try:
                self._send(name, at, Path(path), size, progress, pace)
                return self.settled(name, at, size, if_absent)
            except BaseException:
                self.forget(name, at, before)
                raise

    def stream(self, name, *, if_absent=False, pace=None) -> CommandStream:
        """Begins a file whose length nobody knows yet: `put` reads it from its standard input."""
        safe_name(name)
        if not self._streams:
            raise TargetError(f"{self.place} cannot take a stream: put: asks for {{path}} or {{size}}")
        if pace:
            pace(0)
        return CommandStream(self, name, if_absent, self._options.timeout, pace)

    def read(self, name, offset=0, length=None) -> Iterator[bytes]:
        """The bytes as the program writes them; of a program without ranges what is not wanted is passed over."""
        safe_name(name)
        what = f"cannot read {name} from {self.place}"
        if length is None:
            found = self._find(name)
            if found is None:
                raise TargetError(f"{what}: it is not there")
            length = max(found.size - offset, 0)
        if length == 0:
            return
        values = {"name": name, "offset": str(offset), "length": str(length), "last": str(offset + length - 1)}
        skip, left = 0 if self._ranged else offset, length
        with self._run("get", what, values, output=True) as run:
            for data in run.output(self._options.timeout):
                if skip:
                    data, skip = data[skip:], max(skip - len(data), 0)
                if len(data) > left:
                    if self._ranged:
                        raise TargetError(f"{what}: {run.program} gives more bytes than it was asked for")
                    data = data[:left]
                left -= len(data)
                if data:
                    yield data
                if not left and not self._ranged:
                    return
            run.end(self._options.timeout)
        if left:
            raise TargetError(f"{name} in {self.place} ends {left} bytes too early")

    def stat(self, name) -> Optional[Stored]:
        """The file, None when there is none."""
        return self._find(safe_name(name))

    def list(self, prefix="") -> Iterator[Stored]:
        """All files, put in order here; what has no safe name is passed over."""
        if prefix:
            safe_name(prefix.rstrip("/") or "x")
        found = self._listed(prefix)
        for name in sorted(found, key=str.encode):
            if not name.startswith(INCOMING + "/"):
                yield found[name]

    def delete(self, name) -> None:
        """Removes the file; that there is none is no error, however the program says it."""
        safe_name(name)
        try:
            self._do("delete", f"cannot remove {name} from {self.place}", {"name": name})
        except Gone:
            pass
        except TargetError:
            if self._find(name) is not None:
                raise

    def probe(self) -> Iterator[Finding]:
        """Looks for the programs, then writes, reads, lists and removes a file of its own."""
        for program in sorted({getattr(self._options, verb)[0] for verb in _KNOWN if getattr(self._options, verb)}):
            if not shutil.which(program, path=environment()["PATH"]):
                yield Finding(False, "program", f"{program} is not there or no program", "install it, or give its path")
                return
        yield from proven(self, self._context, self.place)
        whole = self._options.move is not None
        message = "a file gets its name when it is whole" if whole else "a put that is cut may leave a part of a file"
        yield Finding(True, "whole", message, "" if whole else "give move:, or see that put: does so", not whole)

    def clean(self, older_than_ns) -> int:
        """Removes what this server's broken puts and streams left in `incoming`; names tell when they began."""
        removed = 0
        notes = {facts.get("temporary"): path for path, facts in streaming.left(self.folder)}
        for name in self._listed(self._incoming):
            begun = re.match(r"([0-9a-f]{16})-[0-9a-f]{8}\Z", name[len(self._incoming) :])
            if begun and (int(begun.group(1), 16) < older_than_ns or name in notes):
                self.delete(name)
                removed += 1
        for note in notes.values():
            note.unlink(missing_ok=True)
        return removed

    def close(self) -> None:
        """Nothing is held open."""

    # -- for the stream, too

    def before(self, name: str, if_absent: bool) -> Optional[Stored]:
        """What stands under the name before it is put. Raises TargetError when nothing should."""
        before = None if self._options.move and not if_absent else self._find(name)
        if if_absent and before is not None:
            raise self._exists(name)
        return before

    def temporary(self) -> str:
        """A name in `incoming` that tells when it was made."""
        return f"{self._incoming}{time.time_ns():016x}-{secrets.token_hex(4)}"

    def settled(self, name: str, at: str, size: int, if_absent: bool) -> Stored:
        """What was put at `at` is whole, and gets its name."""
        found = self._find(at)
        if found is None or found.size != size:
            told = "nothing" if found is None else f"{found.size} bytes"
            raise TargetError(f"{name} is {told} in {self.place} after {size} bytes were written", "", True)
        if self._options.move:
            if if_absent and self._find(name) is not None:
                raise self._exists(name)
            self._do("move", f"cannot put {name} into its place", {"from": at, "to": name})
            found = self._find(name)
            if found is None or found.size != size:
                raise TargetError(f"{name} is not in {self.place} after it was moved there", "", True)
        return found

    def forget(self, name: str, at: str, before: Optional[Stored]) -> bool:
        """Takes away what a put that failed left; whether nothing is left."""
        try:
            if self._options.move or self._find(name) != before:
                self.delete(at)
            return True
        except TargetError:
            return False

    def begin(self, name: str, at: str) -> Run:
        """`put`, to be fed."""
        return self._run("put", f"cannot write {name} to {self.place}", {"name": at}, feed=True)

    @property
    def moves(self) -> bool:
        """Whether a file gets its name by a move."""
        return self._options.move is not None

    # -- inside

    def _exists(self, name: str) -> TargetError:
        return TargetError(f"{name} is already in {self.place}", "another server or an earlier run put it there")

    def _send(self, name: str, at: str, path: Path, size: int, progress, pace) -> None:
        values = {"name": at, "path": str(path), "size": str(size)}
        if pace and self._by_path:
            pace(size)  # the program reads the file itself, as fast as it likes: on the whole the rate holds
        pace = to_the_end(pace)
        with self._run("put", f"cannot write {name} to {self.place}", values, feed=not self._by_path) as run:
            if not self._by_path:
                sent = 0
                with open(path, "rb", buffering=0) as file:
                    while data := file.read(PIECE):
                        if pace:
                            pace(len(data))
                        run.feed(data, self._options.timeout)
                        sent += len(data)
                        if progress:
                            progress(len(data))
                if sent != size:
                    raise TargetError(f"{path} changed while it was copied")
                run.end_of_feed()
            run.end()
        if self._by_path and progress and size:
            progress(size)

    def _find(self, name: str) -> Optional[Stored]:
        """What `stat` says, or without it `list`."""
        if self._options.stat is None:
            return self._listed(name).get(name)
        try:
            lines = list(self._lines("stat", f"cannot look at {name} in {self.place}", {"name": name}))
        except Gone:
            return None
        if not lines:
            return None
        found = _stored(lines[0] if "\t" in lines[0] else f"{lines[0]}\t{name}", "")
        if len(lines) > 1 or found is None:
            raise TargetError(f"cannot look at {name} in {self.place}: stat: says more than one line, or no size")
        return Stored(name, found.size, found.modified_ns)

    def _listed(self, prefix: str) -> Dict[str, Stored]:
        folder = prefix.rpartition("/")[0]
        used = "folder" in _PLACEHOLDER.findall(" ".join(self._options.list))
        above = folder + "/" if used and folder else ""
        found: Dict[str, Stored] = {}
        good, wrong = 0, None
        try:
            for line in self._lines("list", f"cannot list {self.place}", {"prefix": prefix, "folder": folder}):
                try:
                    stored = _stored(line, above)
                    good += 1
                except TargetError as error:  # a name with a line's end or tab in it, that somebody planted there
                    wrong = wrong or error
                    continue
                if stored is not None and stored.name.startswith(prefix):
                    found[stored.name] = stored
        except Gone:
            return {}
        if wrong and not good:
            raise wrong
        return found

    def _lines(self, verb: str, what: str, values: Dict[str, str]) -> Iterator[str]:
        """Its lines; those that are no UTF-8 name nothing of ours."""
        rest, count = b"", 0
        with self._run(verb, what, values, output=True) as run:
            for data in run.output(self._options.timeout):
                *lines, rest = (rest + data).split(b"\n")
                count += len(lines)
                if len(rest) > _LONGEST_LINE or count > MOST_LINES:
                    raise TargetError(f"{what}: {run.program} writes lines without end")
                yield from _decoded(lines)
            run.end(self._options.timeout)
        yield from _decoded([rest])

    def _do(self, verb: str, what: str, values: Dict[str, str]) -> None:
        with self._run(verb, what, values) as run:
            run.end(None if verb == "move" else self._options.timeout)

    def _run(self, verb: str, what: str, values: Dict[str, str], feed: bool = False, output: bool = False) -> Run:
        if self._options.credentials:
            _private(self._options.credentials, self.place)
            values = {**values, "credentials": str(self._options.credentials)}
        arguments = []
        for given in getattr(self._options, verb):
            filled = _PLACEHOLDER.sub(lambda word: values[word.group(1)], given)
            if filled.startswith("-") and not given.startswith("-"):
                raise TargetError(f"{what}: a name that begins with - would be an option of {arguments[0]}")
            arguments.append(filled)
        return Run(arguments, what, list(self._options.missing), self._options.longest, feed, output)


def _checked(path: Path, sha256: Optional[str]) -> int:
    """The size of a file that can be read and has that digest: looked at before, since a program keeps what it got."""
    found, size = hashlib.sha256(), 0
    try:
        with open(path, "rb", buffering=0) as file:
            if sha256:
                while data := file.read(1 << 20):
                    found.update(data)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from None
    if sha256 and found.hexdigest() != sha256:
        raise WrongDigest(f"{path} is not what its checksum says")
    return size


def _private(path: Path, place: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise TargetError(f"cannot read the credentials of {place}: {error.strerror}: {path}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise TargetError(f"{path} can be read by others", f"chmod 600 {path}")


def _decoded(lines: List[bytes]) -> Iterator[str]:
    for line in lines:
        with contextlib.suppress(UnicodeDecodeError):
            if line:
                yield line.decode("utf-8")


def _stored(line: str, above: str) -> Optional[Stored]:
    """What a line `SIZE TAB NAME` or `SIZE TAB SECONDS TAB NAME` says; None when it names nothing of ours."""
    size, *more = line.split("\t")
    seconds = more.pop(0) if len(more) == 2 else "0"
    if len(more) != 1 or not re.fullmatch(r"[0-9]{1,18}", size) or not re.fullmatch(r"[0-9]{1,11}(\.[0-9]*)?", seconds):
        shown: Any = line[:80]
        raise TargetError(f"{shown!r} is no line of SIZE, tab, NAME", "see docs/targets.md, command")
    try:
        name = safe_name(above + more[0])
    except TargetError:
        return None
    return Stored(name, int(size), int(float(seconds) * 10**9))


DRIVER = TargetDriver("command", "any program that can put, get, list and delete", CommandOptions, CommandTarget,
                      remote=True)  # fmt: skip
