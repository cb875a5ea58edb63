"""The rows of the catalog as frozen records.

Here live the records only, so that a room can name a row without loading a database, and whether the process that
a run's row names still runs; reading and writing rows is catalog.store. Times are nanoseconds since 1970, sizes bytes.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, Optional, Tuple

# What a run ends with, worst last.
OK, WARN, FAIL = "OK", "WARN", "FAIL"

# The life of a copy (design, "Staging").
COPY_STATES = ("wanted", "copying", "done", "verified", "failed", "expired", "damaged")

# How many regular files a dump holds of which only the manifest is known, until its index is read.
UNKNOWN = -1

# In the place of a target's name: the image on the holding disk. It has a row of a copy only while it is damaged.
HOLDING = "holding"

# What a proof was: sizes, signature and small files; every frame and file; some of the bytes; a restore.
PROOF_KINDS = ("quick", "full", "sample", "drill")


@dataclass(frozen=True)
class DumpRow:
    """A dump whose image is whole, synced and signed.

    id: its name. segment: "" for a whole source. base: the dump it holds the changes since, None for a full.
    previous: the source's dump before it. files: regular ones, or UNKNOWN.
    holding: absolute folder on a holding disk, None when it left it.
    state: file name of its state blocks below <state>/state/<client>/<source>/, None when there are none.
    options: what decided its content on the client (path, include, exclude, one_file_system; of a segment folders: its
    own, or of the last one those of the others); empty: unknown.
    notes: what a person should know about it. damaged: some copy of it was found broken and none is known good.
    """

    id: str
    client: str
    source: str
    segment: str
    type: str
    path: str
    level: int
    counter: int
    begun_ns: int
    ended_ns: int
    base: Optional[str]
    previous: Optional[str]
    run: str
    codec: str
    archive_size: int
    stored_size: int
    entries: int
    files: int
    holding: Optional[str]
    manifest_sha256: str
    warnings: int = 0
    suspects: int = 0
    notes: Tuple[str, ...] = ()
    state: Optional[str] = None
    damaged: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """JSON-ready."""
        return {**asdict(self), "notes": list(self.notes)}


@dataclass(frozen=True)
class CopyRow:
    """One dump on one target. state: one of COPY_STATES. upload: what a resume needs."""

    dump: str
    target: str
    state: str = "wanted"
    upload: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0
    verified_ns: Optional[int] = None
    updated_ns: int = 0
    error: str = ""


@dataclass(frozen=True)
class ProofRow:
    """What was read of one dump at one place, when, and whether it was right: the newest of its kind and range.

    place: a target's name or HOLDING. kind: one of PROOF_KINDS. part: of the image, -1 for the whole dump; start,
    length: of the range in it (length: bytes read, when it is the whole dump). note: what was wrong, for people.
    """

    dump: str
    place: str
    kind: str
    ok: bool
    when_ns: int = 0
    part: int = -1
    start: int = 0
    length: int = 0
    note: str = ""


@dataclass(frozen=True)
class EstimateRow:
    """What was expected of one dump and what came, in bytes of its image. how: walk, history or default; used: it is
    what the plan was made with. full: what a full was expected to have: to be off by less of it matters little."""

    dump: str
    how: str
    client: str
    source: str
    segment: str
    run: str
    level: int
    used: bool
    estimated: int
    full: int
    actual: int
    when_ns: int = 0


@dataclass(frozen=True)
class RunRow:
    """One night's work, or one stage, restore and so on. kind: run, stage, restore, verify or drill.

    ended_ns None: at work, or killed.
    """

    id: str
    kind: str
    begun_ns: int
    ended_ns: Optional[int] = None
    status: Optional[str] = None
    pid: int = 0
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRow:
    """What became of one source, or a segment of one, in one run: what the report shows.

    level: asked for, None when none was. dump: its name when there is one. code, message, hint: of the error,
    or of the warning when ok. seconds: how long it took. warning: ok, but a person should look; or an absence
    that is no error.
    """

    run: str
    client: str
    source: str
    ok: bool
    level: Optional[int] = None
    dump: Optional[str] = None
    code: str = ""
    message: str = ""
    hint: str = ""
    seconds: float = 0.0
    warning: bool = False
    segment: str = ""


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number, anybody's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
