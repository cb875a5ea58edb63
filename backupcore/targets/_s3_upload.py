"""One file on its way into a bucket: in one request, or in upload parts that survive a kill -9.

The file is read once, in order, by the caller's thread, which also computes its digest; the target's senders
send the pieces. Not here: when and what to upload.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from backupcore import files
from backupcore.hookspecs import TargetError, WrongDigest, to_the_end

from . import _s3_probe as probing
from ._s3_client import LARGEST_PART, MIB, SMALLEST_PART, code_of, paced, told

MOST_PARTS = 10_000
_MD5_TAG = re.compile(r'"?([0-9a-f]{32})"?\Z')


class Part(NamedTuple):
    """A finished upload part: number (from 1), the place's ETag, SHA-256 as base64 where the place keeps it."""

    number: int
    etag: str
    sha256: str


class Upload:
    """One put under way."""

    def __init__(self, target, name, path, fd, facts, if_absent, sha256, checkpoint, progress, pace=None):
        self.target, self.name, self.path, self.fd, self.facts = target, name, path, fd, facts
        self.if_absent, self.sha256, self.checkpoint, self.progress = if_absent, sha256, checkpoint, progress
        self.pace = pace
        self.client = target.client()
        self.where = {"Bucket": target.bucket, "Key": target.prefix + name}
        self.size = os.fstat(fd).st_size
        self.what = f"cannot write {name} to {target.place}"
        self.found = hashlib.sha256()
        self.read = 0

    def in_one(self) -> Tuple[dict, bool]:
        """The whole file in one request."""
        self._may_begin()
        with self.target.room:
            content = self._next(self.size + 1)
            self._check_digest()
            protect = {"IfNoneMatch": "*"} if self.if_absent and self.facts.if_none_match != "refused" else {}
            with told(self.what), paced(to_the_end(self.pace)):
                self.client.put_object(
                    **self.where,
                    Body=content,
                    **probing.checksums(content, self.facts.sha256, self.facts.md5),
                    **self.target.put_options,
                    **protect,
                )
        if self.progress and self.size:
            self.progress(self.size)
        # 200 to a signed request: all of it is there; when it came to be is not told, and costs a request to ask
        return {"Size": self.size, "LastModified": None}, self.facts.put_checked

    def in_parts(self, resume: Optional[Mapping[str, Any]]) -> Tuple[dict, bool]:
        """Upload parts, those of an earlier try used again when their bytes are these bytes."""
        upload, part_size, there = self._resumed(resume) or self._begun()
        where = {**self.where, "UploadId": upload}
        note = self.target.notes() / (note_name(upload) + ".json")
        try:
            parts = self._send_all(where, part_size, there)
            self._check_digest()
            self._complete(where, parts)
        except WrongDigest:
            self._forget(upload, note)
            raise
        except BaseException:
            if self.checkpoint is None:
                with contextlib.suppress(TargetError):
                    self._forget(upload, note)
            raise
        note.unlink(missing_ok=True)
        found = self._landed()
        # not the tag of the completion's answer: servers that answer before they are done leave it empty
        return found, self.facts.part_checked and _made_of(found.get("ETag", ""), parts)

    def _forget(self, upload: str, note: Path) -> None:
        self.target.abort(self.where["Key"], upload)
        note.unlink(missing_ok=True)

    def _begun(self):
        part_size = part_size_for(self.size, self.target.part_size)
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self.facts.sha256 else {}
        with told(self.what):
            begun = self.client.create_multipart_upload(**self.where, **algorithm, **self.target.put_options)
        upload = begun["UploadId"]
        files.make_folder(self.target.notes())
        note = {"bucket": self.where["Bucket"], "key": self.where["Key"], "upload": upload}
        files.replace(self.target.notes() / (note_name(upload) + ".json"), json.dumps(note).encode())
        self._save(upload, part_size, 0)
        return upload, part_size, {}

    def _resumed(self, resume):
        """The earlier upload and its parts as the place lists them; None when it is of no use any more."""
        try:
            upload, part_size, size = str(resume["upload"]), int(resume["part_size"]), int(resume["size"])
        except (KeyError, TypeError, ValueError):
            return None
        count = -(-self.size // max(part_size, 1))
        if size != self.size or not SMALLEST_PART <= part_size <= LARGEST_PART or count > MOST_PARTS:
            return None
        there = {}
        with told(self.what):
            try:
                pages = self.client.get_paginator("list_parts")
                for page in pages.paginate(**self.where, UploadId=upload):
                    there.update({part["PartNumber"]: part for part in page.get("Parts", ())})
            except self.client.exceptions.ClientError as error:
                if code_of(error) not in ("NoSuchUpload", "NoSuchKey", "404", "InvalidArgument"):
                    raise
                return None
        return upload, part_size, there

    def _send_all(self, where, part_size: int, there: dict):
        """Reads the file once, in order, and lets the senders send; the memory is bounded by the target's room."""
        under_way: Dict[int, Future] = {}
        parts = []
        senders = self.target.senders()
        try:
            for number in range(1, -(-self.size // part_size) + 1):
                while not self.target.room.acquire(timeout=0.2):
                    self._gather(under_way, parts, where["UploadId"], part_size)
                try:
                    if number not in there:
                        self._may_begin()
                    content = self._next(part_size)
                    under_way[number] = senders.submit(self._send, where, number, content, there.get(number))
                except BaseException:
                    self.target.room.release()
                    raise
                del content
                self._gather(under_way, parts, where["UploadId"], part_size)
            while under_way:
                self._gather(under_way, parts, where["UploadId"], part_size, wait=True)
        finally:
            for future in under_way.values():
                if future.cancel():
                    self.target.room.release()
            for future in under_way.values():
                if not future.cancelled():
                    future.exception()  # waits: nothing is sent any more when this returns
        if self._next(1):
            raise TargetError(f"{self.path} changed while it was copied")
        return sorted(parts)

    def _gather(self, under_way, parts, upload, part_size, wait: bool = False) -> None:
        """Takes the finished parts; raises what a sender raised."""
        for number in sorted(under_way):
            if wait or under_way[number].done():
                parts.append(under_way[number].result())
                del under_way[number]
                wait = False
                self._save(upload, part_size, len(parts))
                if self.progress:
                    self.progress(min(part_size, self.size - (number - 1) * part_size))

    def _send(self, where, number: int, content: bytes, there: Optional[dict]) -> Part:
        """In a sender's thread."""
        try:
            # where the place keeps no SHA-256, the signed payload's (computed by botocore) is what it checks
            hashed = self.facts.sha256 or (there and there.get("ChecksumSHA256"))
            sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode() if hashed else ""
            if there and there.get("Size") == len(content) and _same(there, content, sha256):
                return Part(number, there["ETag"], sha256)
            given = {"ChecksumSHA256": sha256} if self.facts.sha256 else {}
            with told(f"{self.what} (upload part {number})"), paced(to_the_end(self.pace)):
                answer = self.client.upload_part(
                    **where,
                    PartNumber=number,
                    Body=content,
                    **given,
                    **probing.checksums(content, False, self.facts.md5),
                )
            return Part(number, answer["ETag"], sha256)
        finally:
            self.target.room.release()

    def _complete(self, where, parts) -> None:
        if self.if_absent and self.target.entry(self.name) is not None:
            raise TargetError(f"{self.name} is already in {self.target.place}", "another server put it there")
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        if self.facts.sha256:
            listed = [{**item, "ChecksumSHA256": part.sha256} for item, part in zip(listed, parts, strict=True)]
        protect = {"IfNoneMatch": "*"} if self.if_absent and self.facts.if_none_match == "honoured" else {}
        with told(self.what):
            try:
                self.client.complete_multipart_upload(**where, MultipartUpload={"Parts": listed}, **protect)
            except self.client.exceptions.ClientError as error:
                # a completion whose answer was lost and that was tried again: the object tells
                found = self.target.entry(self.name) if code_of(error) == "NoSuchUpload" else None
                if found is None or not _made_of(found.get("ETag", ""), parts):
                    raise

    def _landed(self) -> dict:
        """What the place lists now under the name; another size is an error."""
        found = self.target.entry(self.name)
        if found is None or found["Size"] != self.size:
            size = "missing" if found is None else f"{found['Size']} bytes long"
            sent = f"{self.size} bytes were sent"
            raise TargetError(f"{self.name} is {size} in {self.target.place} after it was written: {sent}")
        return found

    def _may_begin(self) -> None:
        """Raises Paused when no more may be sent now; what is under way is sent to its end."""
        if self.pace:
            self.pace(0)

    def _next(self, most: int) -> bytes:
        pieces = []
        try:
            while most and (data := os.pread(self.fd, most, self.read)):
                pieces.append(data)
                self.found.update(data)
                self.read += len(data)
                most -= len(data)
        except OSError as error:
            raise TargetError(f"cannot read {self.path}: {error.strerror}") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_digest(self) -> None:
        if self.read != self.size:
            raise TargetError(f"{self.path} changed while it was copied")
        if self.sha256 and self.found.hexdigest() != self.sha256:
            raise WrongDigest(f"{self.path} is not what its checksum says")

    def _save(self, upload: str, part_size: int, done: int) -> None:
        if self.checkpoint:
            self.checkpoint({"upload": upload, "part_size": part_size, "size": self.size, "parts": done})


def part_size_for(size: int, wanted: int) -> int:
    """Bytes of an upload part, whole MiB: at most 10,000 of them make the file. Raises TargetError."""
    needed = -(-size // MOST_PARTS)
    part_size = max(wanted, -(-needed // MIB) * MIB)
    if part_size > LARGEST_PART:
        raise TargetError(f"{size} bytes are more than S3 takes as one file", "make part_size of the policy smaller")
    return part_size


def _same(there: dict, content: bytes, sha256: str) -> bool:
    """Whether an upload part at the place holds these bytes, as its own checksum tells."""
    if there.get("ChecksumSHA256"):
        return there["ChecksumSHA256"] == sha256
    tag = _MD5_TAG.match(there.get("ETag", ""))
    return bool(tag) and tag.group(1) == hashlib.md5(content, usedforsecurity=False).hexdigest()


def _made_of(etag: str, parts) -> bool:
    """Whether the ETag of a whole object says that it is made of exactly these parts.

    Most places: MD5 over the parts' MD5s, then '-' and their number. Where parts' tags are no MD5, the number counts.
    """
    digest, _dash, count = etag.strip('"').rpartition("-")
    if count != str(len(parts)):
        return False
    tags = [_MD5_TAG.match(part.etag) for part in parts]
    if not all(tags) or not re.match(r"[0-9a-f]{32}\Z", digest):
        return True
    joined = b"".join(bytes.fromhex(tag.group(1)) for tag in tags)
    return hashlib.md5(joined, usedforsecurity=False).hexdigest() == digest


def note_name(upload: str) -> str:
    return hashlib.sha256(upload.encode()).hexdigest()[:32]
