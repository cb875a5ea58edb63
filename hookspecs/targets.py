"""The target contract: a place that keeps files by name.

A target knows names, sizes and bytes; nothing of images. Every method may be called from several
threads at once, may be called again after a failure, and raises TargetError and nothing else when
the place refuses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Protocol


class TargetError(Exception):
    """The place cannot be reached or refuses. hint: the next step; retry: whether trying again may help."""

    def __init__(self, message: str, hint: str = "", retry: bool = False):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry = retry


class WrongDigest(TargetError):
    """The file to put has not the digest it must have: nothing was stored under its name."""


class Unreadable(TargetError):
    """The place answers and has the file, but cannot give its bytes (a bad sector): that copy of it is lost."""


class Asleep(TargetError):
    """The file is in an archive of the place: it has to be asked for with wake(), and can be read hours later."""


class Paused(TargetError):
    """It is not the time to send any more: what is under way ends where a later try can go on. No failure."""


Pace = Callable[[int], None]


def to_the_end(pace: Optional[Pace]) -> Optional[Pace]:
    """pace for the bytes of what cannot be taken up in its middle, an upload part or a file: waits, never pauses.

    Call pace(0) before the first of them: that pauses, and waits for nothing.
    """
    if pace is None:
        return None

    def wait(count: int) -> None:
        try:
            pace(count)
        except Paused:
            pass

    return wait


_PART_OF_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}\Z")


def safe_name(name: str) -> str:
    """Returns name when it can be the name of a file at a target; raises TargetError when it cannot.

    Parts joined by '/', none empty, '.' or '..', no control characters, no backslash, at most 900 bytes of
    UTF-8. Every target calls it first, so that nothing leaves its root.
    """
    parts = name.split("/")
    try:
        fits = len(name.encode("utf-8")) <= 900 and all(len(part.encode("utf-8")) <= 255 for part in parts)
    except UnicodeEncodeError:
        fits = False
    if not fits or not all(_PART_OF_NAME.match(part) and part not in (".", "..") for part in parts):
        raise TargetError("%r is no name of a file at a target" % name)
    return name


@dataclass(frozen=True)
class TargetCapabilities:
    """What a target can do; the engine asks these, never names.

    ranged_reads: read() of a range costs about that range. overwrite_protection: put(if_absent=True) is
    refused by the place itself. own_checksums: the place was seen to refuse bytes that do not match their
    checksum, so that a put can be proven (see Stored); else the engine reads the copy back. delete:
    delete() works. lock: files can be locked against deletion for a time. kept_checksums: kept_sha256() gives
    what the place keeps. metered: reading costs money, so that the nightly sample takes little of it. tells_others:
    others() names what lies there and list() passes over. streams: stream() works. archives: files may be Asleep, and
    wake() works. versions: the place keeps what is overwritten or removed, as a version.
    """

    ranged_reads: bool = True
    overwrite_protection: bool = False
    own_checksums: bool = False
    delete: bool = True
    lock: bool = False
    kept_checksums: bool = False
    metered: bool = False
    tells_others: bool = False
    streams: bool = False
    archives: bool = False
    versions: bool = False


@dataclass(frozen=True)
class Lock:
    """What protects a file from being removed. until_ns: 0, nothing by time. mode: governance or compliance, '' none.
    held: a legal hold, until somebody takes it away."""

    until_ns: int = 0
    mode: str = ""
    held: bool = False


@dataclass(frozen=True)
class Spent:
    """What a target was used for since it was opened, as the place bills it: requests by kind (write: PUT, COPY, POST,
    LIST; read: GET and all others; delete: free), bytes sent to it and got from it, bytes woken from an archive."""

    write: int = 0
    read: int = 0
    delete: int = 0
    sent: int = 0
    got: int = 0
    woken: int = 0


@dataclass(frozen=True)
class Stored:
    """A file at the target: its name below the target's root, its size in bytes, its time in ns (0 unknown).

    proven: only from put(): the place itself checked all bytes and put them together; no need to read it back.
    """

    name: str
    size: int
    modified_ns: int = 0
    proven: bool = False


@dataclass(frozen=True)
class Finding:
    """One line of probe() or of a driver's make(): ok, a short name, what was found, and the next step when not ok.

    warning: worth knowing, no failure (for instance a server that ignores If-None-Match). changed: make() has set it,
    or would.
    """

    ok: bool
    name: str
    message: str
    hint: str = ""
    warning: bool = False
    changed: bool = False


@dataclass(frozen=True)
class Making:
    """What a place is to be when it is made, as far as its driver can. look: change nothing, say what would be.

    lock: files can be locked there. versions: what is overwritten or removed stays as a version. private: nothing can
    open it to the public. encryption: by the place itself: AES256, aws:kms, or the id of a key. abort_days, old_days:
    unfinished uploads and older versions go after so many days; 0: never.
    """

    look: bool = False
    lock: bool = False
    versions: bool = False
    private: bool = True
    encryption: str = ""
    abort_days: int = 7
    old_days: int = 0


@dataclass(frozen=True)
class TargetContext:
    """What the engine gives a driver: the target's name, the server's id, a folder of its own (0700).

    pruning: opened to remove what retention lets go: a driver that has a credential of its own for that uses it.
    """

    name: str
    server_id: str
    folder: Path
    pruning: bool = False


class Stream(Protocol):
    """A file on its way to a target while it is still being made. Used by one thread."""

    def write(self, data: Any) -> None:
        """Takes the next bytes; waits while too many are on their way. Raises TargetError: the file cannot be made."""
        ...

    def finish(self, sha256: str) -> Stored:
        """The file is whole: it stands under its name, durable. sha256: of all bytes. WrongDigest, TargetError."""
        ...

    def abort(self) -> None:
        """Takes away what was sent; nothing stands under the name. No error when that cannot be done now: clean()."""
        ...


class Target(Protocol):
    """An open target."""

    @property
    def capabilities(self) -> TargetCapabilities:
        """What the place can do; may ask the place the first time, and then raise TargetError."""
        ...

    def put(
        self,
        name: str,
        path: Path,
        *,
        if_absent: bool = False,
        sha256: Optional[str] = None,
        resume: Optional[Mapping[str, Any]] = None,
        checkpoint: Optional[Callable[[Mapping[str, Any]], None]] = None,
        progress: Optional[Callable[[int], None]] = None,
        pace: Optional[Callable[[int], None]] = None,
    ) -> Stored:
        """Stores the file at path as name, whole or not at all, durable when it returns.

        if_absent: raise TargetError when name exists (as far as the place can tell). sha256: hex digest
        that the bytes sent must have, else WrongDigest. resume: what checkpoint was last given for this
        file in an earlier try (may be stale: then start anew). checkpoint(state): called whenever a piece
        of work is safe that a later try can use; state is JSON-ready; without it a failed try leaves
        nothing to use. progress(n): n more bytes are at the place. Both are called in the caller's thread.
        pace(n): called, from any thread, before the next n bytes are sent; it sleeps as long as the rate asks for, and
        then raises Paused when no more may be sent now: leave a checkpoint and raise it. pace(0) does not sleep. A
        driver that cannot go on in the middle of what it is sending asks with pace(0) before it begins that, and
        uses to_the_end(pace) within. Optional: without it in the signature nothing is begun out of time, but a file
        is sent as fast as it goes, and waited for afterwards.
        """
        ...

    def read(self, name: str, offset: int = 0, length: Optional[int] = None) -> Iterator[bytes]:
        """Bytes of name from offset, exactly length of them (None: to the end), in pieces.

        TargetError when name is missing, or ends before that.
        """
        ...

    def stat(self, name: str) -> Optional[Stored]:
        """The file, None when there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[Stored]:
        """All files whose name begins with prefix, in order of their names' bytes."""
        ...

    def kept_sha256(self, name: str) -> Optional[str]:
        """The hex SHA-256 that the place keeps of the whole file and has checked when it was put; None when it keeps
        none. Asked only of a target whose capabilities say kept_checksums; others need no such method.
        """
        ...

    def others(self, folder: str) -> Iterator[str]:
        """Names of what lies directly in folder and is no file that list() gives: folders (a slash at the end), links,
        devices, files whose names are not safe (bytes that are no UTF-8 as surrogates). Asked
        only of a target whose capabilities say tells_others; others need no such method.
        """
        ...

    def delete(self, name: str) -> None:
        """Removes name, and frees its room: older versions of it go too, as far as the place lets them. No error when
        there is none. TargetError when it is locked. Where its bytes stay, only hidden, since nobody may remove them,
        probe() says so.
        """
        ...

    # Methods that a driver may lack; the engine asks the capability first.

    def stream(self, name: str, *, if_absent: bool = False, pace: Optional[Callable[[int], None]] = None) -> Stream:
        """Begins a file whose length nobody knows yet. Of targets whose capabilities say streams."""
        ...

    def lock(self, name: str, until_ns: int) -> Lock:
        """Protects name from being removed until then, at least (never shortens); what the place says of it when asked
        back. TargetError when the place did not keep it. Of targets whose capabilities say lock.
        """
        ...

    def legal_hold(self, name: str, on: bool) -> Lock:
        """Holds name, or releases it; what the place says of it when asked back. Of targets with lock."""
        ...

    def locked(self, name: str) -> Lock:
        """What protects name. Of targets with lock."""
        ...

    def wake(self, name: str, days: int) -> bool:
        """Asks for name to be readable for so many days; whether it is readable now. Of targets with archives."""
        ...

    def copy_from(
        self,
        other: "Target",
        name: str,
        *,
        size: int,
        sha256: str,
        resume: Optional[Mapping[str, Any]] = None,
        checkpoint: Optional[Callable[[Mapping[str, Any]], None]] = None,
        progress: Optional[Callable[[int], None]] = None,
        pace: Optional[Callable[[int], None]] = None,
    ) -> Optional[Stored]:
        """The file of that name at another target, copied by the place itself; None when it cannot, and nothing is left
        of the try: then the bytes go through this machine. size, sha256: what the file has to be; proven as of put().
        The rest as of put(), but pace is called with 0 alone: nothing comes over this machine's line. A driver may lack
        it.
        """
        ...

    def hidden(self, prefix: str = "") -> Iterator[str]:
        """Names of files below prefix that somebody removed and whose bytes are still there, as an older version.
        A driver may lack it.
        """
        ...

    def unhide(self, name: str) -> None:
        """Makes a hidden file seen again; no error when nothing hides it. Of drivers with hidden()."""
        ...

    def spent(self) -> Spent:
        """What it was used for since it was opened; asked by any thread, and once more after close(). A driver may lack
        it: then nobody bills."""
        ...

    def probe(self) -> Iterator[Finding]:
        """Proves write, read, range, list, delete and what capabilities promise, with small files of its own."""
        ...

    def clean(self, older_than_ns: int) -> int:
        """Removes half-made uploads begun before that time, and what streams of processes that are gone have left,
        whatever its age; returns how many."""
        ...

    def close(self) -> None:
        """Frees what the target holds."""
        ...


@dataclass(frozen=True)
class TargetDriver:
    """A kind of target.

    type: the word in the configuration. options: a pydantic model class (extra="forbid") of its options.
    open(options, context) returns a Target without any network access where it can. remote: what such places keep
    is still there when this machine and all that is mounted on it is gone, and is reached over a network: drills
    prove those copies first, restores read them last. Said by the kind, since it must be known without asking a place.
    tariff: the line of a public price list that holds for a place with these options, as `aws/eu-west-1/STANDARD`; ''
    when none does. make(options, context, making): makes the place, or what it lacks; None: it needs no making.
    """

    type: str
    summary: str
    options: type
    open: Callable[[Any, TargetContext], Target]
    secrets: tuple = field(default=())  # options, and keys of its credentials file, that are never shown nor in argv
    remote: bool = False
    tariff: Optional[Callable[[Mapping[str, Any]], str]] = None
    make: Optional[Callable[[Any, TargetContext, Making], Iterator[Finding]]] = None
