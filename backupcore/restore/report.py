"""What a restore was asked to do, would read, and did: plain records.

Here live records and the next command to type; nothing here reads a dump. Names that come from clients
are escaped in everything that as_dict() gives.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field

from .. import clock, text


@dataclass(frozen=True)
class Options:
    """How to restore. destination None: the client's scratch folder. existing: refuse, overwrite or keep.

    exact: folders end with the names they had and no others. permit: id of the permit file that Ansible's root
    wrote. name: the folder in the scratch folder; empty: the name of the newest dump read. drill: so many bytes will
    come; the agent reads all of it again and takes it away (agent/drill.py). None: a restore.
    """

    destination: str | None = None
    existing: str = "refuse"
    exact: bool = False
    permit: str | None = None
    name: str = ""
    drill: int | None = None


@dataclass(frozen=True)
class DumpUse:
    """One dump that a restore reads: where from (place), how much of it is stored, how much is needed."""

    dump: str
    client: str
    source: str
    level: int
    begun_ns: int
    place: str
    bytes: int

    def as_dict(self) -> dict:
        """JSON-ready, with the time as people's tools read it."""
        values = asdict(self)
        values["begun"] = clock.iso(values.pop("begun_ns"))
        return values


@dataclass(frozen=True)
class RestorePlan:
    """What a restore would read. dump: the newest one, for which a permit is given.

    files_bytes: the content of the files; bytes: what is read of the images.

    What already exists at the destination only the client knows: the plan says so in notes.
    """

    client: str
    moment: str
    dump: str
    paths: tuple[str, ...]
    dumps: tuple[DumpUse, ...]
    entries: int
    files: int
    files_bytes: int
    bytes: int
    destination: str
    existing: str
    exact: bool
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """JSON-ready."""
        values = asdict(self)
        values["dumps"] = [dump.as_dict() for dump in self.dumps]
        return values


@dataclass
class RestoreReport:
    """What a restore did. failed: (path, why), escaped. notes: what a person should know, escaped.

    read_from: one record per dump and place. next: commands to type, best first. drilled: what the agent said of each
    drill.
    """

    client: str
    moment: str = ""
    destination: str = ""
    entries: int = 0
    files: int = 0
    folders: int = 0
    bytes: int = 0
    skipped: int = 0
    failed_count: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    not_kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dumps: list[str] = field(default_factory=list)
    read_from: list[DumpUse] = field(default_factory=list)
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0
    next: list[str] = field(default_factory=list)
    drilled: list[dict] = field(default_factory=list)

    FAILED_LIMIT = 1000  # a client can send notes without end

    def fail(self, path: str | bytes, why: str) -> None:
        """One path more that was not restored."""
        self.failed_count += 1
        if len(self.failed) < self.FAILED_LIMIT:
            self.failed.append((text.escape(path), text.escape(why)))

    def note(self, message: str) -> None:
        """Something to know, once."""
        message = text.escape(message)
        if message not in self.notes and len(self.notes) < self.FAILED_LIMIT:
            self.notes.append(message)

    @property
    def status(self) -> str:
        """ok; warn: all is there, but a copy was bad or something cannot be kept; fail: something is not restored."""
        return "fail" if self.failed_count else "warn" if self.notes or self.not_kept else "ok"

    @property
    def exit_status(self) -> int:
        """1 when something that was asked for was not restored."""
        return 1 if self.failed_count else 0

    def as_dict(self) -> dict:
        """JSON-ready."""
        values = asdict(self)
        values["failed"] = [{"path": path, "message": why} for path, why in self.failed]
        values["read_from"] = [use.as_dict() for use in self.read_from]
        values["status"] = self.status
        values.pop("drilled")
        return values


@dataclass(frozen=True)
class Version:
    """One content of a path, over all dumps.

    first, last: the oldest and the newest dump that holds it; dumps: how many do.
    gone: the first dump without the path, None while the newest dump has it or when another content came after this.
    """

    client: str
    source: str
    path: bytes
    kind: str
    size: int
    mtime_ns: int
    link: bytes
    sha256: str
    suspect: bool
    first: str
    first_ns: int
    last: str
    last_ns: int
    dumps: int
    gone: str | None = None
    gone_ns: int | None = None

    def as_dict(self) -> dict:
        """JSON-ready; names escaped, and the command that restores this version. dump: the newest that holds it."""
        return {
            "client": self.client,
            "source": self.source,
            "path": text.escape(self.path),
            "kind": self.kind,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "link": text.escape(self.link),
            "sha256": self.sha256,
            "suspect": self.suspect,
            "dump": self.last,
            "first": clock.iso(self.first_ns),
            "first_dump": self.first,
            "last": clock.iso(self.last_ns),
            "dumps": self.dumps,
            "gone": self.gone is not None,
            "gone_since": None if self.gone_ns is None else clock.iso(self.gone_ns),
            "gone_dump": self.gone,
            "next": restore_command(self.client, self.path, self.last),
        }


@dataclass(frozen=True)
class Listed:
    """One entry of the tree at a moment. kind: a letter of the index; n: there, but not in the dump (link says why)."""

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    dump: str
    suspect: bool

    def as_dict(self) -> dict:
        """JSON-ready; names escaped."""
        return {**asdict(self), "path": text.escape(self.path), "link": text.escape(self.link)}


def shell_word(word: str | bytes) -> str:
    """A word as it can be typed in a shell: plain, quoted, or $'…' when it holds what a terminal would not show."""
    data = word if isinstance(word, bytes) else word.encode("utf-8", "surrogateescape")
    shown = text.escape(data)
    if shown == data.decode("utf-8", "replace"):
        return shlex.quote(shown)
    safe = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-:,+=@ "
    return "$'%s'" % "".join(chr(byte) if byte in safe else "\\x%02x" % byte for byte in data)


def path_word(client: str, path: bytes) -> str:
    """`CLIENT:/PATH` for a shell; what would be a glob is written so that it means itself."""
    quoted = b"".join(b"\\" + bytes((byte,)) if byte in b"*?[\\" else bytes((byte,)) for byte in path)
    return shell_word(client.encode() + b":" + quoted)


def restore_command(client: str, path: bytes, at: str = "") -> str:
    """The command that restores path of client, as it was at a moment or in a dump."""
    return "stowage restore %s%s" % (path_word(client, path), " --at " + shlex.quote(at) if at else "")
