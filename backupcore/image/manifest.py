"""The manifest: what a dump is, in JSON, signed; and the record of a run's manifests.

Here live the records, their exact bytes and their strict reading; signatures are in signing.py, whose names
are here too. Times are ISO with nanoseconds in JSON, whole nanoseconds in the record.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field, fields
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .. import clock, ids
from ..errors import ImageDamaged
from . import layout, seal
from .index import check_path
from .signing import Signer, fingerprint, load_public_keys, verify

__all__ = [
    "FORMAT", "AuditHead", "FileRecord", "Link", "Manifest", "RunRecord", "Signer", "fingerprint", "load_public_keys",
    "open_manifest", "open_run_record", "sign_run_record", "verify",
]  # fmt: skip

FORMAT = 1
SIZE_LIMIT = 16 << 20
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z\Z")


@dataclass(frozen=True)
class FileRecord:
    """A file of a dump: its name in the folder, its bytes, its hex SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Link:
    """Another dump of the same source: its name, the hex SHA-256 of its manifest.json."""

    dump: str
    manifest_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a dump is.

    server: id; counter: of the source at this server, from 1: the order of its dumps. path: of the source on
    the client. base: the dump that this one holds the changes since, None for a full; previous: the dump
    of the source before this one. archive_size: unpacked. entries: lines of the index. parts: in order.
    index, frames: the two tables. seal: None, not sealed; else how, and all names end in .enc.
    agent: version of the agent; versions: of what it used. warnings, suspects: how many. signer: fingerprint
    of the signing key. sums_sha256, restore_sha256: of SHA256SUMS and RESTORE.txt; '' until folder.finish().
    """

    server: str
    client: str
    source: str
    type: str
    path: str
    dump: str
    level: int
    counter: int
    begun_ns: int
    ended_ns: int
    codec: str
    archive_size: int
    entries: int
    parts: Tuple[FileRecord, ...]
    index: FileRecord
    frames: FileRecord
    base: Optional[Link] = None
    previous: Optional[Link] = None
    segment: Optional[str] = None
    folders: Tuple[str, ...] = ()  # of a segment; bytes that are no UTF-8 as surrogates
    newer_ns: int = 0  # of an interim dump: what but folders was changed before is left out
    agent: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: int = 0
    suspects: int = 0
    sums_sha256: str = ""
    restore_sha256: str = ""
    signer: str = ""
    seal: Optional[Mapping[str, Any]] = None
    format: int = FORMAT

    @property
    def sealed(self) -> Optional[seal.Seal]:
        """How the dump is sealed, None when it is not. Raises ImageDamaged."""
        tables = (self.index.name, self.frames.name)
        return seal.parse(self.seal, tuple(record.name for record in self.all_files()), tables)

    @property
    def prefix(self) -> str:
        """The dump's folder below a holding disk or target."""
        return layout.dump_prefix(self.client, self.source, self.dump, self.segment)

    @property
    def stored_size(self) -> int:
        """Bytes of parts and tables."""
        return sum(record.size for record in self.all_files())

    def all_files(self) -> Tuple[FileRecord, ...]:
        """Parts, index and frame table: what SHA256SUMS lists, in its order."""
        return (*self.parts, self.index, self.frames)

    def to_bytes(self) -> bytes:
        """The exact bytes of manifest.json: sorted keys, one blank of indent, ASCII, a newline at the end."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["begun"], plain["ended"] = _iso(plain.pop("begun_ns")), _iso(plain.pop("ended_ns"))
        plain["parts"] = [vars(record) for record in self.parts]
        tables = (plain.pop("index"), plain.pop("frames"))
        plain["files"] = {record.name: {"size": record.size, "sha256": record.sha256} for record in tables}
        for name in ("base", "previous"):
            plain[name] = vars(plain[name]) if plain[name] else None
        plain["versions"] = dict(self.versions)
        newer = plain.pop("newer_ns")
        if newer:
            plain["newer"] = _iso(newer)
        if self.segment is None or newer:
            del plain["folders"]
        return _dump(plain)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """The manifest in the bytes of manifest.json. Raises ImageDamaged; fields it does not know are left."""
        plain = _load(data, "manifest.json")
        if _get(plain, "format", int) != FORMAT:
            raise ImageDamaged(
                "manifest.json is of format %s, this Stowage reads format %d" % (plain["format"], FORMAT),
                "use a newer Stowage, or open it by hand with RESTORE.txt",
            )
        codec = _get(plain, "codec", str)
        tables = _get(plain, "files", dict)
        try:
            ending = layout.SEALED if plain.get("seal") else ""
            names = [name(codec) + ending for name in (layout.index_name, layout.frames_name)]
        except KeyError:
            raise _wrong("codec") from None
        index, frames = (_file({"name": name, **_get(tables, name, dict)}) for name in names)
        versions = _get(plain, "versions", dict)
        manifest = cls(
            server=_get(plain, "server", str), client=_get(plain, "client", str), source=_get(plain, "source", str),
            type=_get(plain, "type", str), path=_get(plain, "path", str), dump=_get(plain, "dump", str),
            level=_get(plain, "level", int), counter=_get(plain, "counter", int),
            begun_ns=_moment(plain, "begun"), ended_ns=_moment(plain, "ended"),
            codec=codec, archive_size=_get(plain, "archive_size", int), entries=_get(plain, "entries", int),
            parts=tuple(_file(record) for record in _get(plain, "parts", list)), index=index, frames=frames,
            base=_link(plain, "base"), previous=_link(plain, "previous"), segment=plain.get("segment"),
            folders=_folders(plain), newer_ns=_moment(plain, "newer") if "newer" in plain else 0,
            agent=_get(plain, "agent", str), versions=versions,
            warnings=_get(plain, "warnings", int), suspects=_get(plain, "suspects", int),
            sums_sha256=_get(plain, "sums_sha256", str), restore_sha256=_get(plain, "restore_sha256", str),
            signer=_get(plain, "signer", str), seal=plain.get("seal"),
        )  # fmt: skip
        manifest._check()
        return manifest

    def _check(self) -> None:
        name = ids.parse_dump_name(self.dump)
        segment = self.segment is None or (isinstance(self.segment, str) and ids.is_name(self.segment))
        for good, what in (
            (ids.is_name(self.server), "server"), (ids.is_name(self.client), "client"),
            (ids.is_name(self.source), "source"), (segment, "segment"),
            (not segment or ids.parse_segment(self.segment or "") is None or self.folders, "folders"),
            (bool(self.newer_ns) == (self.segment == ids.INTERIM), "newer"),
            (not self.newer_ns or 0 < self.newer_ns <= self.begun_ns and self.level == 0, "newer"),
            (name is not None, "dump"),
            (name is None or self.level == name.level, "level"), ((self.level == 0) == (self.base is None), "base"),
            (self.counter > 0, "counter"), (self.seal is None or isinstance(self.seal, dict), "seal"),
            (all(isinstance(value, str) for value in self.versions.values()), "versions"),
            (_HEX.match(self.sums_sha256), "sums_sha256"), (_HEX.match(self.restore_sha256), "restore_sha256"),
            (_HEX.match(self.signer), "signer"), (0 < len(self.parts) <= layout.MAX_PARTS, "parts"),
        ):  # fmt: skip
            if not good:
                raise _wrong(what)
        self.sealed  # noqa: B018 - raises when it cannot be read
        for number, record in enumerate(self.parts):
            found = layout.parse_part_name(record.name)
            sealed = layout.SEALED if self.seal else ""
            if not found or record.name != layout.part_name(number, self.codec, found[1]) + sealed:
                raise _wrong("parts")


def open_manifest(data: bytes, signature: bytes, public_keys: Mapping[str, bytes]) -> Manifest:
    """The manifest in data, its signature checked first. Raises ImageDamaged."""
    if len(data) > SIZE_LIMIT:
        raise ImageDamaged("manifest.json is larger than %d bytes" % SIZE_LIMIT)
    signer = verify(data, signature, public_keys)
    manifest = Manifest.from_bytes(data)
    if manifest.signer != signer:
        raise ImageDamaged("manifest.json names another signer than the one who signed it")
    return manifest


@dataclass(frozen=True)
class AuditHead:
    """The end of a server's audit log: how many entries it has, hex SHA-256 of the last one's line."""

    entries: int
    sha256: str


def sign_run_record(
    signer: Signer,
    server: str,
    run: str,
    begun_ns: int,
    ended_ns: int,
    status: str,
    manifests: Iterable[Mapping[str, Any]],
    audit: Optional[AuditHead] = None,
) -> Tuple[bytes, bytes]:
    """(record, signature) of a run: what it made, so that a second place can witness what one place lost.

    manifests: a mapping {"client", "source", "dump", "counter", "manifest_sha256"} for each dump of the run, and
    "segment" where it is of one. audit: the end of the audit log, None where it cannot be read.
    """
    made: List[Dict[str, Any]] = [dict(one) for one in manifests]
    made.sort(key=lambda one: (one["client"], one["source"], one["dump"]))
    data = _dump({
        "format": FORMAT, "server": server, "run": run, "begun": _iso(begun_ns), "ended": _iso(ended_ns),
        "status": status, "manifests": made, "signer": signer.fingerprint,
        **({} if audit is None else {"audit": {"entries": audit.entries, "sha256": audit.sha256}}),
    })  # fmt: skip
    return data, signer.sign(data)


@dataclass(frozen=True)
class Made:
    """A dump that a run record names."""

    client: str
    source: str
    dump: str
    counter: int
    manifest_sha256: str
    segment: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What a run of a server made, as it signed it."""

    server: str
    run: str
    begun_ns: int
    ended_ns: int
    status: str
    manifests: Tuple[Made, ...]
    signer: str
    audit: Optional[AuditHead] = None


def open_run_record(data: bytes, signature: bytes, public_keys: Mapping[str, bytes]) -> RunRecord:
    """The record in data, its signature checked first. Raises ImageDamaged."""
    if len(data) > SIZE_LIMIT:
        raise ImageDamaged("the record is larger than %d bytes" % SIZE_LIMIT)
    signer = verify(data, signature, public_keys)
    plain = _load(data, "the record")
    if _get(plain, "format", int) != FORMAT or _get(plain, "signer", str) != signer:
        raise ImageDamaged("the record is of another format, or names another signer")
    made = []
    for one in _get(plain, "manifests", list):
        if not isinstance(one, dict):
            raise _wrong("manifests")
        named = Made(
            _get(one, "client", str), _get(one, "source", str), _get(one, "dump", str), _get(one, "counter", int),
            _get(one, "manifest_sha256", str), _get(one, "segment", str) if "segment" in one else "",
        )  # fmt: skip
        known = ids.is_name(named.client) and ids.is_name(named.source) and ids.parse_dump_name(named.dump)
        known = known and (not named.segment or ids.is_name(named.segment))
        if not known or not _HEX.match(named.manifest_sha256):
            raise _wrong("manifests")
        made.append(named)
    return RunRecord(
        _get(plain, "server", str), _get(plain, "run", str), _moment(plain, "begun"), _moment(plain, "ended"),
        _get(plain, "status", str), tuple(made), signer, _audit(plain),
    )  # fmt: skip


def _audit(plain: Mapping[str, Any]) -> Optional[AuditHead]:
    if plain.get("audit") is None:
        return None  # of a server that kept none yet
    value = _get(plain, "audit", dict)
    head = AuditHead(_get(value, "entries", int), _get(value, "sha256", str))
    if not _HEX.match(head.sha256):
        raise _wrong("audit")
    return head


def digest(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def _dump(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=True).encode("ascii") + b"\n"


def _load(data: bytes, what: str) -> Dict[str, Any]:
    if len(data) > SIZE_LIMIT:
        raise ImageDamaged("%s is larger than %d bytes" % (what, SIZE_LIMIT))
    try:
        plain = json.loads(data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ImageDamaged("%s cannot be read" % what) from None
    if not isinstance(plain, dict):
        raise ImageDamaged("%s holds no object" % what)
    return plain


def _unique(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key twice")
    return plain


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _wrong(name: str) -> ImageDamaged:
    return ImageDamaged("manifest.json has no %s, or a wrong one" % name)


def _get(plain: Mapping[str, Any], name: str, kind: type) -> Any:
    value = plain.get(name)
    if type(value) is not kind or (kind is int and value < 0):
        raise _wrong(name)
    return value


def _file(plain: Any) -> FileRecord:
    if not isinstance(plain, dict):
        raise _wrong("parts")
    record = FileRecord(_get(plain, "name", str), _get(plain, "size", int), _get(plain, "sha256", str))
    if not _HEX.match(record.sha256):
        raise _wrong("sha256")
    return record


def _link(plain: Mapping[str, Any], name: str) -> Optional[Link]:
    value = plain.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _wrong(name)
    link = Link(_get(value, "dump", str), _get(value, "manifest_sha256", str))
    if ids.parse_dump_name(link.dump) is None or not _HEX.match(link.manifest_sha256):
        raise _wrong(name)
    return link


def _folders(plain: Mapping[str, Any]) -> Tuple[str, ...]:
    value = plain.get("folders", [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise _wrong("folders")
    try:
        if not all(check_path(os.fsencode(one)) for one in value):
            raise _wrong("folders")
    except UnicodeError:
        raise _wrong("folders") from None
    return tuple(value)


def _iso(ns: int) -> str:
    return "%s.%09dZ" % (clock.iso(ns)[:-1], ns % clock.NS)


def _moment(plain: Mapping[str, Any], name: str) -> int:
    match = _TIME.match(_get(plain, name, str))
    try:
        return clock.parse_iso(match.group(1) + "Z") + int(match.group(2))  # type: ignore[union-attr]
    except (AttributeError, ValueError):
        raise _wrong(name) from None
