"""The target `s3`: a bucket at AWS or at any server of that protocol.

Here lives the contract's face: what is there, reading by ranges, removing. Not here: how a file gets there
(_s3_upload.py), what the place checks by itself (_s3_probe.py), connection, credentials and error texts
(_s3_client.py).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

from backupcore import clock
from backupcore.hookspecs import (
    Finding,
    Stored,
    TargetCapabilities,
    TargetContext,
    TargetDriver,
    TargetError,
    safe_name,
)

from . import _s3_probe as probing
from ._s3_client import ATTEMPTS, MIB, S3Options, code_of, make_client, told
from ._s3_upload import Upload, note_name

PIECE = MIB


class S3Target:
    """Objects of one bucket below one prefix; one client and one pool of senders for all threads."""

    def __init__(self, options: S3Options, context: TargetContext):
        self._options = options
        self._context = context
        self.bucket = options.bucket
        self.prefix = options.prefix + "/" if options.prefix else ""
        self.put_options = {"StorageClass": options.storage_class} if options.storage_class else {}
        self.place = f"bucket {options.bucket}{'/' + options.prefix if options.prefix else ''}"
        self.place += f" at {options.endpoint}" if options.endpoint else ""
        self.part_size = options.part_size
        self._lock = threading.Lock()
        self._made: Any = None
        self._pool: Optional[ThreadPoolExecutor] = None
        self._known: Optional[probing.Facts] = None
        # pieces of files in memory at once, over all files under way: those being sent and one being read
        self.room = threading.BoundedSemaphore(options.parallel + 1)

    @property
    def capabilities(self) -> TargetCapabilities:
        """As found by trying; asks the place when nothing is known of it or the knowledge is a week old."""
        facts = self.facts()
        return TargetCapabilities(
            ranged_reads=True,
            overwrite_protection=facts.if_none_match == "honoured",
            own_checksums=facts.put_checked and facts.part_checked,
            delete=True,
            kept_checksums=facts.sha256,
            metered=True,
        )

    def facts(self, anew: bool = False) -> probing.Facts:
        """What the place really does."""
        with self._lock:
            if self._known is None or anew:
                path = self._context.folder / "facts.json"
                place = " as ".join([self.place, *self.put_options.values()])
                self._known = None if anew else probing.load(path, place)
                if self._known is None:
                    key = f"{self.prefix}.stowage/probe-of-{self._context.server_id}"
                    client = make_client(self._options, self._context.name)
                    try:
                        self._known = probing.find(client, self.bucket, key, place, path, self.put_options)
                    finally:
                        client.close()
            return self._known

    # -- the contract

    def put(self, name, path, *, if_absent=False, sha256=None, resume=None, checkpoint=None, progress=None,
            pace=None) -> Stored:  # fmt: skip
        """One request for a small file, upload parts for others."""
        safe_name(name)
        facts = self.facts()
        if if_absent and self.entry(name) is not None:
            raise TargetError(f"{name} is already in {self.place}", "another server or an earlier run put it there")
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise TargetError(f"cannot read {path}: {error.strerror}") from None
        with file:
            upload = Upload(self, name, Path(path), file.fileno(), facts, if_absent, sha256, checkpoint, progress,
                            pace)  # fmt: skip
            found, proven = upload.in_parts(resume) if upload.size > self.part_size else upload.in_one()
        return _stored(found, name, proven)

    def read(self, name, offset=0, length=None) -> Iterator[bytes]:
        """Streams one ranged request; when it breaks off, goes on behind what came, a few times."""
        safe_name(name)
        if length == 0:
            return
        end = None if length is None else offset + length
        etag, failures = "", 0
        while True:
            try:
                for piece, tag in self._pieces(name, offset, end, etag):
                    offset += len(piece)
                    etag, failures = tag, 0
                    yield piece
                if end is None or offset == end:
                    return
                raise TargetError(f"{name} in {self.place} ends {end - offset} bytes too early")
            except TargetError as error:
                failures += 1
                if not error.retry or not etag or failures >= ATTEMPTS:
                    raise
                time.sleep(min(0.2 * 2**failures, 5))

    def stat(self, name) -> Optional[Stored]:
        """The file, None when there is none."""
        found = self.entry(safe_name(name))
        return _stored(found, name) if found else None

    def list(self, prefix="") -> Iterator[Stored]:
        """All files below the target's prefix; what has no safe name is passed over."""
        paginator = self.client().get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix))
        while True:
            with told(f"cannot list {self.place}"):
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                name = item["Key"][len(self.prefix) :]
                with contextlib.suppress(TargetError):
                    safe_name(name)
                    yield _stored(item, name)

    def delete(self, name) -> None:
        """Removes the object (in a versioned bucket: puts a delete marker)."""
        safe_name(name)
        with told(f"cannot remove {name} from {self.place}"):
            try:
                self.client().delete_object(Bucket=self.bucket, Key=self.prefix + name)
            except self.client().exceptions.ClientError as error:
                if code_of(error) not in ("NoSuchKey", "404"):
                    raise

    def kept_sha256(self, name) -> Optional[str]:
        """Of an object put in one request; what was put in upload parts has only a checksum of checksums."""
        safe_name(name)
        with told(f"cannot look at {name} in {self.place}"):
            try:
                found = self.client().head_object(Bucket=self.bucket, Key=self.prefix + name, ChecksumMode="ENABLED")
            except self.client().exceptions.ClientError as error:
                if code_of(error) in ("NoSuchKey", "404"):
                    return None
                raise
        kept = found.get("ChecksumSHA256") or ""
        try:
            raw = base64.b64decode(kept, validate=True)
        except binascii.Error:  # `...-5`: of five upload parts
            return None
        return raw.hex() if len(raw) == 32 else None

    def probe(self) -> Iterator[Finding]:
        """Finds the facts anew and proves write, read, ranges, list and delete."""
        return probing.findings(self, self._context.folder)

    def clean(self, older_than_ns) -> int:
        """Aborts this server's own uploads (it keeps a note of each) that began before that time."""
        count = 0
        for note in self.notes().glob("*.json"):
            try:
                if note.stat().st_mtime_ns >= older_than_ns:
                    continue
                begun = json.loads(note.read_bytes())
                known = begun["bucket"] == self.bucket and begun["key"].startswith(self.prefix)
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                known = False
            if known:
                count += self.abort(begun["key"], begun["upload"])
            note.unlink(missing_ok=True)
        return count

    def close(self) -> None:
        """Ends the senders and the connections."""
        with self._lock:
            pool, self._pool = self._pool, None
            client, self._made = self._made, None
        if pool:
            pool.shutdown(cancel_futures=True)
        if client:
            client.close()

    # -- for Upload and probing

    def foreign_uploads(self, older_than_ns: int) -> int:
        """How many unfinished uploads below the prefix are older than that and not in this server's notes."""
        own = {note.stem for note in self.notes().glob("*.json")}
        count = 0
        with told(f"cannot list the uploads of {self.place}"):
            pages = self.client().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix):
                for upload in page.get("Uploads", ()):
                    old = upload["Initiated"].timestamp() * clock.NS < older_than_ns
                    count += old and note_name(upload["UploadId"]) not in own
        return count

    def abort(self, key: str, upload: str) -> bool:
        """Removes an upload's parts; False when there was no such upload."""
        with told(f"cannot end an upload to {self.place}"):
            try:
                self.client().abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            except self.client().exceptions.ClientError as error:
                if code_of(error) not in ("NoSuchUpload", "NoSuchKey", "404"):
                    raise
                return False
        return True

    def client(self):
        with self._lock:
            if self._made is None:
                self._made = make_client(self._options, self._context.name)
            return self._made

    def senders(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._options.parallel, f"s3-{self._context.name}")
            return self._pool

    def notes(self) -> Path:
        return self._context.folder / "uploads"

    def entry(self, name: str) -> Optional[dict]:
        """The listing's entry of exactly this name. Not HEAD: it tells no reason, and a missing bucket is a 404 too."""
        key = self.prefix + name
        with told(f"cannot look for {name} in {self.place}"):
            page = self.client().list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
        found = page.get("Contents", [])
        return found[0] if found and found[0]["Key"] == key else None

    def _pieces(self, name, offset, end, etag):
        """(bytes, ETag) of one request from offset."""
        arguments: Dict[str, Any] = {"Bucket": self.bucket, "Key": self.prefix + name}
        if offset or end is not None:
            arguments["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
        if etag:
            arguments["IfMatch"] = etag  # the rest of the same object, not of a newer one
        with told(f"cannot read {name} from {self.place}"):
            try:
                answer = self.client().get_object(**arguments)
            except self.client().exceptions.ClientError as error:
                if code_of(error) == "InvalidRange" and end is None:
                    return
                raise
        body = answer["Body"]
        with contextlib.closing(body):
            if "Range" in arguments and not str(answer.get("ContentRange", "")).startswith(f"bytes {offset}-"):
                raise TargetError(f"{self.place} ignores the range that was asked of {name}")
            pieces = body.iter_chunks(PIECE)
            while True:
                with told(f"cannot read {name} from {self.place}"):
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece, answer.get("ETag") or ""


def _stored(item: dict, name: str, proven: bool = False) -> Stored:
    when = item["LastModified"]
    return Stored(name, item["Size"], int(when.timestamp() * clock.NS) if when else 0, proven)


DRIVER = TargetDriver("s3", "a bucket at AWS S3 or a server of that protocol", S3Options, S3Target,
                      remote=True)  # fmt: skip
