"""The target `s3`: a bucket at AWS or at any server of that protocol.

Here lives the contract's face: what is there, reading by ranges, removing. Not here: how a file gets there
(_s3_upload.py), what the place checks by itself (_s3_probe.py), connection, credentials and error texts
(_s3_client.py).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

from backupcore import clock
from backupcore.hookspecs import (
    Finding,
    Spent,
    Stored,
    TargetCapabilities,
    TargetContext,
    TargetDriver,
    TargetError,
    safe_name,
)
from backupcore.image import layout

from . import _s3_archive as archive
from . import _s3_kept as keeping
from . import _s3_probe as probing
from ._s3_bucket import make
from ._s3_client import ATTEMPTS, MIB, S3Options, code_of, make_client, told
from ._s3_copy import Copy, identity
from ._s3_guarded import Guarded
from ._s3_memory import Buffers
from ._s3_spent import Meter, tariff
from ._s3_stream import S3Stream
from ._s3_unfinished import Unfinished
from ._s3_upload import Upload

PIECE = MIB


class S3Target(Guarded, Unfinished):
    """Objects of one bucket below one prefix; one client and one pool of senders for all threads."""

    def __init__(self, options: S3Options, context: TargetContext):
        self._options = options
        self._context = context
        self.folder = context.folder
        self.bucket = options.bucket
        self.prefix = options.prefix + "/" if options.prefix else ""
        self.options = options
        self.place = f"bucket {options.bucket}{'/' + options.prefix if options.prefix else ''}"
        self.place += f" at {options.endpoint}" if options.endpoint else ""
        self.part_size = options.part_size
        self._lock = threading.Lock()
        self.meter = Meter()
        self._made: Any = None
        self._pool: Optional[ThreadPoolExecutor] = None
        self._known: Optional[probing.Facts] = None
        # pieces of files in memory at once, over all files under way: those being sent and one being read
        self.room = threading.BoundedSemaphore(options.parallel + 1)
        self.buffers = Buffers()

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
            lock=bool(facts.lock),
            versions=bool(facts.versions),
            archives=True,  # any bucket may have a rule that archives what is old
            streams=True,
        )

    def facts(self, anew: bool = False) -> probing.Facts:
        """What the place really does."""
        with self._lock:
            if self._known is None or anew:
                path = self._context.folder / "facts.json"
                asked = probing.asked_of(self._options)
                self._known = None if anew else probing.load(path, self.place, asked)
                if self._known is None:
                    key = self.prefix + self.probe_name
                    client = make_client(self._options, self._context.name)
                    self.meter.watch(client)
                    remover = self._remover() or client
                    try:
                        self._known = probing.find(client, self.bucket, key, self.place, path, self._options, remover)
                    finally:
                        client.close()
                        remover.close()
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

    def stream(self, name, *, if_absent=False, pace=None) -> S3Stream:
        """Begins an object whose length nobody knows yet."""
        safe_name(name)
        facts = self.facts()
        if pace:
            pace(0)
        if if_absent and self.entry(name) is not None:
            raise TargetError(f"{name} is already in {self.place}", "another server or an earlier run put it there")
        return S3Stream(self, name, facts, if_absent, pace)

    def copy_from(self, other, name, *, size, sha256, resume=None, checkpoint=None, progress=None,
                  pace=None) -> Optional[Stored]:  # fmt: skip
        """Copied by the service itself, when both are of one and it knows us by one key."""
        safe_name(name)
        if not isinstance(other, S3Target) or self._identity() != other._identity():
            return None
        return Copy(self, other, name, size, sha256, checkpoint, progress, pace).make(resume)

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

    def wake(self, name, days) -> bool:
        """Asks for an archived object, once; whether it can be read now."""
        safe_name(name)
        with told(f"cannot wake {name} in {self.place}"):
            return archive.wake(
                self.client(), self.bucket, self.prefix + name, days, self._options.restore_tier,
                lambda count: self.meter.count(woken=count),
            )  # fmt: skip

    def probe(self) -> Iterator[Finding]:
        """Finds the facts anew and proves write, read, ranges, list and delete."""
        return probing.findings(self, self._context.folder)

    def spent(self) -> Spent:
        """What it was used for since it was opened."""
        return self.meter.spent()

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

    @property
    def probe_name(self) -> str:
        """The name at which facts are found."""
        return f"{layout.MARK}/probe-of-{self._context.server_id}"

    def asked(self, name: str, size: Optional[int]) -> Dict[str, Any]:
        """What is asked of an object besides its bytes, as arguments of a put, a begun upload or a copy.

        size: of the file, None while nobody knows. Raises TargetError when the place does not keep what it must.
        """
        if self.facts().wrong:
            raise TargetError(f"nothing is put into {self.place}: {self.facts().wrong}", "stowage check")
        return keeping.arguments(self._options, name, size)

    def told_of(self, item: dict, name: str, proven: bool) -> Stored:
        """An entry of a listing as what a put returns."""
        return _stored(item, name, proven)

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

    def _remover(self) -> Any:
        """A client of the key that removes what retention lets go, None when it is the night's own."""
        if self._options.delete_credentials or self._options.delete_profile:
            with contextlib.suppress(TargetError):
                found = make_client(self._options, self._context.name, True)
                self.meter.watch(found)
                return found
        return None

    def remover(self) -> "S3Target":
        """What removes here as prune does: this, or the same with the key of delete_credentials or delete_profile."""
        own = self._options.delete_credentials or self._options.delete_profile
        if not own or self._context.pruning:
            return self
        found = S3Target(self._options, replace(self._context, pruning=True))
        found.meter, found._known = self.meter, self.facts()
        return found

    def _identity(self):
        return identity(self._options, self._context.name)

    def client(self):
        with self._lock:
            if self._made is None:
                self._made = make_client(self._options, self._context.name, self._context.pruning)
                self.meter.watch(self._made)
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
                if code_of(error) == "NoSuchKey":
                    self.refuse_hidden(name)
                if code_of(error) == "InvalidObjectState":
                    kind = str(error.response["Error"].get("StorageClass") or self._options.storage_class or "")
                    raise archive.asleep(name, self.place, kind, self._options.restore_tier) from None
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
                      ("access_key", "secret_key", "session_token", "proxy_user", "proxy_password"),
                      remote=True, tariff=tariff, make=make)  # fmt: skip
