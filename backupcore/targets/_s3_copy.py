"""A file copied from one bucket to another by the S3 service itself: not a byte of it comes through this machine.

Here live when that can be, the copy in one request, and the one by upload parts, which a later try goes on with. What
the place says of the SHA-256 of what it copied is compared with what was signed; where it says nothing the engine reads
the copy back. Not here: files from this machine (_s3_upload.py).
"""

from __future__ import annotations

import base64
import contextlib
from concurrent.futures import Future
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from backupcore.hookspecs import Stored, TargetError

from . import _s3_kept as keeping
from ._s3_begin import begun, begun_and_noted, ended
from ._s3_client import MIB, code_of, told
from ._s3_login import read_credentials

LARGEST_ONE = 5 << 30  # what S3 copies in one request
COPY_PART = 256 * MIB  # of an upload part: a minute or less of the service's time
MOST_PARTS = 10_000
# answers after which the bytes go through this machine: it may read there and write here, but not copy
_CANNOT = ("AccessDenied", "NotImplemented", "MethodNotAllowed", "InvalidRequest", "InvalidArgument", "NoSuchKey",
           "NoSuchBucket", "InvalidObjectState", "InvalidAccessKeyId", "AuthorizationHeaderMalformed",
           "PermanentRedirect", "404", "403", "405", "501")  # fmt: skip


def identity(options: Any, name: str) -> Tuple[Any, ...]:
    """Which service a target is of, and who we are there."""
    key = None
    if options.credentials is not None:
        key = read_credentials(options.credentials, name).get("access_key")
    return (options.endpoint or "").rstrip("/"), key or options.profile, options.role_arn


class _Cannot(Exception):
    """The service does not copy this."""


class Copy:
    """One copy_from under way. target, other: S3Targets of one service and one credential."""

    def __init__(self, target: Any, other: Any, name: str, size: int, sha256: str,
                 checkpoint: Optional[Callable[[Mapping[str, Any]], None]], progress: Optional[Callable[[int], None]],
                 pace: Optional[Callable[[int], None]]):  # fmt: skip
        self.target, self.name, self.size, self.sha256 = target, name, size, sha256
        self.checkpoint, self.progress, self.pace = checkpoint, progress, pace
        self.facts = target.facts()
        self.client = target.client()
        self.where = {"Bucket": target.bucket, "Key": target.prefix + name}
        self.source = {"Bucket": other.bucket, "Key": other.prefix + name}
        self.what = f"cannot copy {name} from {other.place} to {target.place}"

    def make(self, resume: Optional[Mapping[str, Any]]) -> Optional[Stored]:
        """The file there; None when the service would not, and nothing is left of it."""
        try:
            # by parts it can be gone on with; in one request the place tells the SHA-256 of the whole
            if self.size <= (LARGEST_ONE if self.facts.sha256 else min(COPY_PART, LARGEST_ONE)):
                proven = self._in_one()
            else:
                proven = self._in_parts(resume)
        except _Cannot:
            return None
        found = self.target.entry(self.name)
        if found is None or found["Size"] != self.size:
            raise TargetError(f"{self.what}: it is not whole there", "stowage stage")
        return self.target.told_of(found, self.name, proven)

    def _asked(self, what: str, call: Callable[..., Any], **given: Any) -> Any:
        if self.pace:
            self.pace(0)
        with told(what):
            try:
                return call(**given)
            except self.client.exceptions.ClientError as error:
                if code_of(error) in _CANNOT:
                    raise _Cannot from None
                raise

    def _in_one(self) -> bool:
        more: Dict[str, Any] = dict(self.target.asked(self.name, self.size))
        if self.facts.sha256:
            more["ChecksumAlgorithm"] = "SHA256"
        # what lies beside the bytes there, and the right to read it, are of no use here
        more["TaggingDirective"] = more["MetadataDirective"] = "REPLACE"
        answer = self._asked(self.what, self.client.copy_object, **self.where, CopySource=self.source, **more)
        keeping.check_answer(answer, self.target.options, self.what)
        self._settle(answer.get("ServerSideEncryption"))
        if self.progress:
            self.progress(self.size)
        kept = answer.get("CopyObjectResult", {}).get("ChecksumSHA256") or ""
        wanted = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        return bool(self.facts.sha256 and self.facts.put_checked and kept == wanted)

    def _in_parts(self, resume: Optional[Mapping[str, Any]]) -> bool:
        upload, part_size, there = self._resumed(resume) or self._begun()
        where = {**self.where, "UploadId": upload}
        with ended(self.target, self.where["Key"], upload, _Cannot, keep=self.checkpoint is not None):
            parts = self._send_all(where, part_size, there)
            listed = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(parts.items())]
            self._complete(where, listed)
        self._settle(None)
        return False  # the place tells checksums of its parts, which nobody else knows

    def _settle(self, encryption: Optional[str]) -> None:
        """What was proven of puts need not hold for copies: encryption and tags are asked back of each, tags given once
        more where they are not there. encryption: as the answer told it."""
        options, tags = self.target.options, keeping.tag_set(self.target.options, self.name, self.size)
        if options.sse and encryption is None:
            encryption = self._asked(self.what, self.client.head_object, **self.where).get("ServerSideEncryption")
        if encryption != options.sse and options.sse:
            with contextlib.suppress(TargetError):  # what is put from here takes its place anyway
                self.target.delete(self.name)
            raise _Cannot
        if not tags:
            return
        # tags that a place does not have are told by `check`
        with told(self.what), contextlib.suppress(self.client.exceptions.ClientError):
            kept = self.client.get_object_tagging(**self.where).get("TagSet", ())
            if {one["Key"]: one["Value"] for one in kept} != {one["Key"]: one["Value"] for one in tags}:
                self.client.put_object_tagging(**self.where, Tagging={"TagSet": tags})

    def _complete(self, where: Mapping[str, Any], listed: List[dict]) -> None:
        if self.pace:
            self.pace(0)
        with told(self.what):
            try:
                self.client.complete_multipart_upload(**where, MultipartUpload={"Parts": listed})
            except self.client.exceptions.ClientError as error:
                # a completion whose answer was lost and that was tried again: what is there is read back anyway
                if code_of(error) != "NoSuchUpload" or (self.target.entry(self.name) or {}).get("Size") != self.size:
                    raise

    def _begun(self) -> Tuple[str, int, Dict[int, dict]]:
        part_size = max(COPY_PART, -(-self.size // MOST_PARTS // MIB) * MIB)

        def begin() -> str:
            return begun(self.target, self.where, self.what, **self.target.asked(self.name, self.size))

        upload = begun_and_noted(self.target, self.where, begin)
        self._save(upload, part_size, 0)
        return upload, part_size, {}

    def _resumed(self, resume: Optional[Mapping[str, Any]]) -> Optional[Tuple[str, int, Dict[int, dict]]]:
        """The upload of an earlier copy of this very file from there, and its parts; None when it is of no use."""
        state = resume or {}
        if state.get("from") != self._from() or state.get("size") != self.size or not state.get("copy"):
            return None
        there: Dict[int, dict] = {}
        with told(self.what):
            try:
                pages = self.client.get_paginator("list_parts")
                for page in pages.paginate(**self.where, UploadId=state["copy"]):
                    there.update({part["PartNumber"]: part for part in page.get("Parts", ())})
            except self.client.exceptions.ClientError as error:
                if code_of(error) not in ("NoSuchUpload", "NoSuchKey", "404", "InvalidArgument"):
                    raise
                return None
        return str(state["copy"]), int(state["range"]), there

    def _send_all(self, where: Mapping[str, Any], part_size: int, there: Mapping[int, dict]) -> Dict[int, str]:
        """All ranges, several at once; number -> tag."""
        parts: Dict[int, str] = {}
        waiting: List[int] = []
        for number in range(1, -(-self.size // part_size) + 1):
            known = there.get(number)
            if known and known.get("Size") == self._length(number, part_size):
                parts[number] = known["ETag"]
                self._count(where["UploadId"], part_size, len(parts), number)
            else:
                waiting.append(number)
        under_way: Dict[int, Future] = {}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self.target.options.parallel:
                    number = waiting.pop(0)
                    under_way[number] = self.target.senders().submit(self._range, where, number, part_size)
                number = next(iter(under_way))
                parts[number] = under_way[number].result()
                del under_way[number]
                self._count(where["UploadId"], part_size, len(parts), number)
        finally:
            for future in under_way.values():
                if not future.cancel():
                    future.exception()  # waits: nothing is done any more when this returns
        return parts

    def _range(self, where: Mapping[str, Any], number: int, part_size: int) -> str:
        begin = (number - 1) * part_size
        answer = self._asked(
            f"{self.what} (upload part {number})", self.client.upload_part_copy, **where, PartNumber=number,
            CopySource=self.source, CopySourceRange=f"bytes={begin}-{begin + self._length(number, part_size) - 1}",
        )  # fmt: skip
        return answer["CopyPartResult"]["ETag"]

    def _length(self, number: int, part_size: int) -> int:
        return min(part_size, self.size - (number - 1) * part_size)

    def _from(self) -> str:
        return f"{self.source['Bucket']}/{self.source['Key']}"

    def _count(self, upload: str, part_size: int, done: int, number: int) -> None:
        self._save(upload, part_size, done)
        if self.progress:
            self.progress(self._length(number, part_size))

    def _save(self, upload: str, part_size: int, done: int) -> None:
        if self.checkpoint:
            # other words than those of an upload from here, whose pieces have to fit into memory
            self.checkpoint({"copy": upload, "range": part_size, "size": self.size, "parts": done,
                             "from": self._from()})  # fmt: skip
