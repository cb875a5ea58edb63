"""One file on its way into a bucket: in one request, or in upload parts that survive a kill -9.

The file is read once, in order, by the caller's thread, which also computes its digest; the target's senders
send the pieces. Not here: when and what to upload.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from concurrent.futures import Future
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from backupcore.hookspecs import TargetError, WrongDigest, to_the_end

from . import _s3_kept as keeping
from . import _s3_probe as probing
from ._s3_begin import begun, begun_and_noted, ended
from ._s3_client import LARGEST_PART, MIB, SMALLEST_PART, code_of, paced, told
from ._s3_kept import check_answer
from ._s3_memory import Held

MOST_PARTS = 10_000
STEP = 1 << 20  # bytes read and hashed at once: they are still in the processor's cache when they are hashed
_MD5_TAG = re.compile(r'"?([0-9a-f]{32})"?\Z')
_JOINED_TAG = re.compile(r"[0-9a-f]{32}-\d+\Z")


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
        self.size = os.fstat(fd).st_size if fd is not None else 0  # of a stream: what came so far
        self.what = f"cannot write {name} to {target.place}"
        self.whole = ""  # the checksum of checksums that the place told of what it put together
        self.found = hashlib.sha256()
        self.read = 0

    def in_one(self) -> Tuple[dict, bool]:
        """The whole file in one request."""
        self._may_begin()
        with self.target.room:
            content = self._next(self.size + 1)
            self._check_digest()
            protect = {"IfNoneMatch": "*"} if self.if_absent and self.facts.if_none_match != "refused" else {}
            self._put_one(content, protect)
        if self.progress and self.size:
            self.progress(self.size)
        # 200 to a signed request: all of it is there; when it came to be is not told, and costs a request to ask
        return {"Size": self.size, "LastModified": None}, self.facts.put_checked

    def _put_one(self, content: bytes, protect: Mapping[str, str]) -> None:
        asked = self.target.asked(self.name, len(content))
        with told(self.what), paced(to_the_end(self.pace)):
            answer = self.client.put_object(
                **self.where,
                Body=content,
                **probing.checksums(content, self.facts.sha256, self.facts.md5),
                **asked,
                **protect,
            )
        check_answer(answer, self.target.options, self.what)

    def in_parts(self, resume: Optional[Mapping[str, Any]]) -> Tuple[dict, bool]:
        """Upload parts, those of an earlier try used again when their bytes are these bytes."""
        going_on = self._resumed(resume)
        if going_on is None and resume:
            whole = self._whole(resume)
            if whole is not None:
                return whole, self.facts.part_checked
        upload, part_size, there = going_on or self._begun()
        where = {**self.where, "UploadId": upload}
        with ended(self.target, self.where["Key"], upload, WrongDigest, keep=self.checkpoint is not None):
            with self.target.buffers.kept():
                parts = self._send_all(where, part_size, there)
            self._check_digest()
            self._complete(where, parts)
        found = self._landed()
        # not the tag of the completion's answer: servers that answer before they are done leave it empty
        return found, self.is_proven(found, parts)

    def is_proven(self, found: dict, parts) -> bool:
        """Whether the place checked each upload part, and says of the whole that it is made of these."""
        of_these = made_of(found.get("ETag", ""), parts) or bool(self.whole) and self.whole == whole_of(parts)
        return self.facts.part_checked and of_these

    def _begun(self):
        part_size = part_size_for(self.size, self.target.part_size)
        upload = begun_and_noted(self.target, self.where, self.begin)
        self._save(upload, part_size, 0)
        return upload, part_size, {}

    def begin(self) -> str:
        """A new upload at the place: its id."""
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self.facts.sha256 else {}
        asked = self.target.asked(self.name, self.size)
        return begun(self.target, self.where, self.what, **algorithm, **asked)

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

    def _whole(self, resume: Mapping[str, Any]) -> Optional[dict]:
        """The object as an earlier try put it together and had no time left to say so; None when it is none of these
        bytes. Told by the checksums that the place gives of its parts: not a byte is sent again."""
        found = self.target.entry(self.name)
        part_size = resume.get("part_size")
        if found is None or found["Size"] != self.size or not isinstance(part_size, int) or part_size < SMALLEST_PART:
            return None
        parts = []
        with self.target.room:
            while content := self._next(min(part_size, self.size + 1 - self.read)):
                tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
                sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode()
                parts.append(Part(len(parts) + 1, tag, sha256))
        self._check_digest()
        tag = found.get("ETag", "").strip('"')
        # a tag that is no MD5 of the parts' (some encryptions) tells nothing
        if (_JOINED_TAG.match(tag) and made_of(tag, parts)) or self._sum_of_sums() == _sum_of(parts):
            if self.progress:
                self.progress(self.size)
            return found
        self.read, self.found = 0, hashlib.sha256()
        return None

    def _sum_of_sums(self) -> str:
        """The checksum of the parts' SHA-256 that the place keeps of the object, '' when it keeps none."""
        if not self.facts.sha256:
            return ""
        with told(self.what):
            return self.client.head_object(**self.where, ChecksumMode="ENABLED").get("ChecksumSHA256") or ""

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
                    held = [self._next_held(part_size)]
                    under_way[number] = senders.submit(self._send, where, number, held, there.get(number))
                except BaseException:
                    self.target.room.release()
                    raise
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

    def _send(self, where, number: int, held: List[Any], there: Optional[dict]) -> Part:
        """In a sender's thread. held: the content, which is let go before its room is."""
        try:
            return self._sent(where, number, held[0], there)
        finally:
            content = held.pop()
            if isinstance(content, Held):
                self.target.buffers.give(content.buffer)
            del content
            self.target.room.release()

    def _sent(self, where, number: int, content: Any, there: Optional[dict] = None) -> Part:
        """The upload part at the place, once."""
        # where the place keeps no SHA-256, the signed payload's (computed by botocore) is what it checks
        hashed = self.facts.sha256 or (there and there.get("ChecksumSHA256"))
        data = content.view if isinstance(content, Held) else content
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode() if hashed else ""
        if there and there.get("Size") == len(data) and _same(there, data, sha256):
            return Part(number, there["ETag"], sha256)
        given = {"ChecksumSHA256": sha256} if self.facts.sha256 else {}
        with told(f"{self.what} (upload part {number})"), paced(to_the_end(self.pace)):
            answer = self.client.upload_part(
                **where,
                PartNumber=number,
                Body=content,
                **given,
                **probing.checksums(data, False, self.facts.md5),
            )
        return Part(number, answer["ETag"], sha256)

    def _complete(self, where, parts) -> None:
        if self.if_absent and self.target.entry(self.name) is not None:
            raise TargetError(f"{self.name} is already in {self.target.place}", "another server put it there")
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        if self.facts.sha256:
            listed = [{**item, "ChecksumSHA256": part.sha256} for item, part in zip(listed, parts, strict=True)]
        protect = {"IfNoneMatch": "*"} if self.if_absent and self.facts.if_none_match == "honoured" else {}
        with told(self.what):
            try:
                answer = self.client.complete_multipart_upload(**where, MultipartUpload={"Parts": listed}, **protect)
                self.whole = answer.get("ChecksumSHA256") or ""
                if self.facts.tag_after:
                    tags = {"TagSet": keeping.tag_set(self.target.options, self.name, self.size)}
                    self.client.put_object_tagging(**self.where, Tagging=tags)
            except self.client.exceptions.ClientError as error:
                # a completion whose answer was lost and that was tried again: the object tells
                found = self.target.entry(self.name) if code_of(error) == "NoSuchUpload" else None
                if found is None or not made_of(found.get("ETag", ""), parts):
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

    def _next_held(self, most: int) -> Held:
        """The next bytes, in memory that is used again."""
        size = min(most, self.size - self.read)
        held, done = Held(self.target.buffers.take(size), size), 0
        try:
            while done < size:
                with held.view[done : done + STEP] as step:
                    count = os.preadv(self.fd, [step], self.read)
                    self.found.update(step[:count])
                if not count:
                    raise TargetError(f"{self.path} changed while it was copied")
                done += count
                self.read += count
        except BaseException as error:
            self.target.buffers.give(held.buffer)
            if isinstance(error, OSError):
                raise TargetError(f"cannot read {self.path}: {error.strerror}") from None
            raise
        return held

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


def whole_of(parts) -> str:
    """The SHA-256 of the parts' SHA-256s as places tell it; '' when one is not known. Tags of files that the place
    encrypts with a key service are no MD5: then this proves them."""
    if not all(part.sha256 for part in parts):
        return ""
    joined = b"".join(base64.b64decode(part.sha256) for part in parts)
    return f"{base64.b64encode(hashlib.sha256(joined).digest()).decode()}-{len(parts)}"


def _same(there: dict, content: bytes, sha256: str) -> bool:
    """Whether an upload part at the place holds these bytes, as its own checksum tells."""
    if there.get("ChecksumSHA256"):
        return there["ChecksumSHA256"] == sha256
    tag = _MD5_TAG.match(there.get("ETag", ""))
    return bool(tag) and tag.group(1) == hashlib.md5(content, usedforsecurity=False).hexdigest()


def made_of(etag: str, parts) -> bool:
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


def _sum_of(parts) -> str:
    """The checksum that a place gives of an object of these parts where it keeps their SHA-256."""
    joined = b"".join(base64.b64decode(part.sha256) for part in parts)
    return f"{base64.b64encode(hashlib.sha256(joined).digest()).decode()}-{len(parts)}"
