"""A dump's folder: the last files of a finished dump, and checking a folder that claims to be one.

Here live the order of the last writes and the checks from signature to bytes; receiving the parts and
putting the folder in its place is the dumper's work.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from .. import clock, files
from ..errors import ImageDamaged
from . import layout, recipients
from .manifest import SIZE_LIMIT, FileRecord, Manifest, Signer, digest, open_manifest
from .restoretxt import restore_text


class Finished(NamedTuple):
    """A finished dump: its manifest as written, and the hex SHA-256 of manifest.json."""

    manifest: Manifest
    manifest_sha256: str


def finish(
    folder: Path, draft: Manifest, signer: Signer, bases: Sequence[str] = (), keys: bytes = b""
) -> Finished:  # fmt: skip
    """Writes keys.tsv, SHA256SUMS, RESTORE.txt, manifest.json and manifest.sig, each synced, then syncs the folder.

    draft: all but the fields that only this knows (sums_sha256, restore_sha256, signer); its files are in
    the folder and synced, their digests known from receiving them: nothing is read again. bases: names of
    the dumps that draft needs, the full first; empty for a full. keys: the lines of keys.tsv when it is sealed.
    """
    if bool(draft.seal) != bool(keys):
        raise ValueError("keys.tsv belongs to a sealed dump, and to no other")
    sums = sums_text(draft.all_files())
    restore = restore_text(draft, clock.iso(draft.begun_ns), clock.iso(draft.ended_ns), bases)
    manifest = replace(
        draft, sums_sha256=digest(sums), restore_sha256=digest(restore), signer=signer.fingerprint
    )  # fmt: skip
    data = manifest.to_bytes()
    Manifest.from_bytes(data)  # what nobody could read must not be signed
    if keys:
        # what nobody could open must not be signed either
        _check_keys(draft, [keys])
        files.write_synced(folder / layout.keys_name(), keys)
    for name, content in (
        (layout.SUMS, sums),
        (layout.RESTORE, restore),
        (layout.MANIFEST, data),
        (layout.SIGNATURE, signer.sign(data)),
    ):
        files.write_synced(folder / name, content)
    files.sync_folder(folder)
    return Finished(manifest, digest(data))


def sums_text(records: Iterable[FileRecord]) -> bytes:
    """SHA256SUMS: what `sha256sum -c` reads."""
    return "".join("%s  %s\n" % (record.sha256, record.name) for record in records).encode("ascii")


def check_folder(
    path: Path, public_keys: Mapping[str, bytes], full: bool = False, parts: bool = True
) -> Manifest:  # fmt: skip
    """The manifest of the dump in path; raises ImageDamaged unless its signature is by one of public_keys, its
    small files are what it says and all others are there in their size; full: reads them all. Of a sealed one
    each file's key must be there for somebody; whether it opens shows only who has a private key. parts: False: those
    lie elsewhere."""
    try:
        manifest = open_manifest(
            read_small(path / layout.MANIFEST, SIZE_LIMIT), read_small(path / layout.SIGNATURE, 64), public_keys
        )
        if manifest.dump != path.name:
            raise ImageDamaged("this is dump %s" % manifest.dump)
        if digest(read_small(path / layout.SUMS, SIZE_LIMIT)) != manifest.sums_sha256:
            raise ImageDamaged("SHA256SUMS is not what the manifest says")
        if digest(read_small(path / layout.RESTORE, SIZE_LIMIT)) != manifest.restore_sha256:
            raise ImageDamaged("RESTORE.txt is not what the manifest says")
        for record in manifest.all_files():
            if parts or layout.parse_part_name(record.name) is None:
                _check_file(path / record.name, record, full)
        if manifest.seal:
            _check_keys(manifest, [read_small(path / name, recipients.SIZE_LIMIT) for name in key_files(path)])
    except ImageDamaged as error:
        raise ImageDamaged("%s: %s" % (path, error.message), error.hint) from None
    return manifest


def key_files(path: Path) -> Tuple[str, ...]:
    """Names of the files of wrapped keys in a dump's folder, the oldest first. Raises ImageDamaged."""
    try:
        found = [(layout.parse_keys_name(name), name) for name in os.listdir(path)]
    except OSError as error:
        raise ImageDamaged("%s: %s" % (path, error.strerror)) from None
    return tuple(name for number, name in sorted((number, name) for number, name in found if number is not None))


def _check_keys(manifest: Manifest, texts: List[bytes]) -> None:
    missing = sorted({one.name for one in manifest.all_files()} - {line.file for line in recipients.read_keys(texts)})
    if missing:
        raise ImageDamaged("%s has no line for %s" % (layout.keys_name(), missing[0]))


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a small file; raises ImageDamaged when it is missing, no file or larger than limit."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as stream:
            data = stream.read(limit + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except OSError as error:
        raise ImageDamaged("%s: %s" % (path.name, error.strerror)) from None
    if data is None or len(data) > limit:
        raise ImageDamaged("%s is no file, or larger than %d bytes" % (path.name, limit))
    return data


def _check_file(path: Path, record: FileRecord, full: bool) -> None:
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size != record.size:
            raise ImageDamaged("%s has %d bytes, the manifest says %d" % (record.name, found.st_size, record.size))
        if full:
            hasher = hashlib.sha256()
            with open(path, "rb") as stream:
                for piece in iter(lambda: stream.read(1 << 20), b""):
                    hasher.update(piece)
            if hasher.hexdigest() != record.sha256:
                raise ImageDamaged("%s is damaged: its SHA-256 is not what the manifest says" % record.name)
    except OSError as error:
        raise ImageDamaged("%s: %s" % (record.name, error.strerror)) from None
