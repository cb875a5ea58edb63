"""What an S3 place really does, found by trying: some ignore If-None-Match, some store damaged bytes.

Here live the facts that s3.py asks before it relies on anything, how they are found, and the findings of
probe(). Facts are kept in the target's own folder for a week. Not here: the transfer of images.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterator, List, Optional

from backupcore import clock, files
from backupcore.hookspecs import Finding, TargetError

from . import _s3_kept as keeping
from . import _s3_lock as locking
from . import _s3_shown as shown
from . import _s3_trial as trial
from . import _s3_versions as versions
from ._s3_errors import code_of, explained, told
from ._s3_kept import ObjectOptions

FACTS_LAST_NS = 7 * 86400 * clock.NS
UNLOCKED_LAST_NS = 3600 * clock.NS  # that no lock was kept may have been a fault of an hour: each night asks again
# refusals that say themselves that the bytes are others than were meant
_DAMAGED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")


@dataclass(frozen=True)
class Facts:
    """What was seen. sha256: x-amz-checksum-sha256 is kept. md5: only Content-MD5 makes the place check.

    put_checked, part_checked: bytes damaged after signing were refused, in a put, in an upload part.
    if_none_match: honoured, ignored or refused (the place takes no such header). asked: of objects, besides their
    bytes. wrong: why nothing may be put: the place refuses or ignores that. notes: what it does not keep, to nobody's
    harm. versions: Enabled, Suspended, '' of a bucket that keeps none. lock: the mode that is kept, ''; lock_tried: and
    that held; unlocked: why not; default_lock: what the bucket locks by itself, or ''; locks_parts: large files too.
    """

    place: str
    seen_ns: int
    sha256: bool
    md5: bool
    put_checked: bool
    part_checked: bool
    if_none_match: str
    asked: str
    wrong: str
    notes: List[str]
    tag_after: bool
    versions: str
    lock: str
    lock_tried: bool
    unlocked: str
    default_lock: str
    locks_parts: bool


def load(path: Path, place: str, asked: str) -> Optional[Facts]:
    """The facts of place from path when they are there and young enough."""
    try:
        found = Facts(**json.loads(path.read_bytes()))
        young = 0 <= clock.now_ns() - found.seen_ns < (UNLOCKED_LAST_NS if found.unlocked else FACTS_LAST_NS)
        return found if young and (found.place, found.asked) == (place, asked) else None
    except (OSError, ValueError, TypeError):
        return None


def asked_of(options: ObjectOptions) -> str:
    """What is asked of objects, as it stands in the facts: others are found when it changes."""
    return options.model_dump_json(include=set(ObjectOptions.model_fields))


def find(client, bucket: str, key: str, place: str, path: Path, options: ObjectOptions, remover) -> Facts:
    """Tries everything with small objects at key, then removes them; keeps the facts at path.

    client is one of its own: what damages the bytes on their way is registered there for good. remover: one that may
    remove, the same when there is no other.
    """
    prober = _Prober(client, bucket, key, options, remover)
    try:
        facts = prober.facts(place)
    finally:
        prober.remove()
    files.make_folder(path.parent)
    files.replace(path, json.dumps(asdict(facts)).encode())
    return facts


class _Prober:
    def __init__(self, client, bucket, key, options: ObjectOptions, remover):
        self.client, self.bucket, self.key, self.options, self.remover = client, bucket, key, options, remover
        self.put_options: dict = {}
        self.damage = False
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-send.s3.{operation}", self._damage)

    def _damage(self, request, **_kwargs):
        """Changes a bit of the body after it was signed, as a bad network card or memory would."""
        if self.damage:
            body = request.body
            if not isinstance(body, (bytes, bytearray)):
                body.seek(0)
                stream, body = body, body.read()
                stream.seek(0)  # a second try sends it from where it stands
            request.body = bytes([body[0] ^ 1]) + body[1:]

    def facts(self, place: str) -> Facts:
        content = secrets.token_bytes(1024)
        kept = keeping.prove(self.client, self.bucket, self.key, self.options)
        if not kept.wrong:
            self.put_options = {**keeping.encrypted(self.options), **keeping.tagged(self.options)}
        sha256 = self._keeps_sha256(content)
        md5, put_checked, part_checked = False, False, False
        for md5 in (False, True):
            put_checked = self._refuses(lambda md5=md5: self._put(content, sha256, md5))
            part_checked = self._refuses_part(content, sha256, md5)
            if put_checked and part_checked:
                break
        if_none_match = self._if_none_match(content)
        locks = self._locks()
        return Facts(
            place, clock.now_ns(), sha256, md5, put_checked, part_checked, if_none_match, asked_of(self.options),
            kept.wrong, kept.notes, kept.tag_after, self._versions(),
            locks.mode, locks.tried, locks.wrong, locks.default, locks.whole,
        )  # fmt: skip

    def _versions(self) -> str:
        found = versions.status(self.client, self.bucket)
        if found is None:  # who may not ask sees it by an object, unless versioning is suspended
            with told(f"cannot look for versions in bucket {self.bucket}"):
                head = self.client.head_object(Bucket=self.bucket, Key=self.key)
            found = "Enabled" if head.get("VersionId") not in (None, "null") else ""
        return found

    def _locks(self) -> locking.Bucket:
        if self.options.lock_mode:
            return locking.prove(
                self.client, self.bucket, self.key + ".lock", self.options.lock_mode, self.remover, self.put_options
            )
        return locking.Bucket(default=locking.default(self.client, self.bucket) or "")

    def _put(self, content, sha256, md5, **more):
        more = {**checksums(content, sha256, md5), **self.put_options, **more}
        return self.client.put_object(Bucket=self.bucket, Key=self.key, Body=content, **more)

    def _keeps_sha256(self, content) -> bool:
        with told(f"cannot write to bucket {self.bucket}"):
            try:
                answer = self._put(content, True, False)
            except self.client.exceptions.ClientError as error:
                if code_of(error) not in ("NotImplemented", "InvalidRequest", "InvalidArgument"):
                    raise
                self._put(content, False, False)
                return False
        return answer.get("ChecksumSHA256") == checksums(content, True, False)["ChecksumSHA256"]

    def _refuses(self, send) -> bool:
        """Whether the place refuses when the bytes change on their way."""
        code = self._refusal(send)
        if code is None or code in _DAMAGED:
            return code is not None
        # it may have been for another reason, that has passed since: a token that expired, a slow line
        with told(f"cannot try checksums in bucket {self.bucket}"):
            send()
        return self._refusal(send) is not None

    def _refusal(self, send) -> Optional[str]:
        """The code with which damaged bytes are refused, None when they are taken."""
        what = f"cannot try checksums in bucket {self.bucket}"
        self.damage = True
        try:
            send()
            return None
        except self.client.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if 400 <= status < 500 and code_of(error) not in ("AccessDenied", "NotImplemented", "404", "NoSuchKey"):
                return code_of(error)
            raise explained(error, what) from None
        except Exception as error:
            raise explained(error, what) from None
        finally:
            self.damage = False

    def _refuses_part(self, content, sha256, md5) -> bool:
        algorithm = {"ChecksumAlgorithm": "SHA256"} if sha256 else {}
        with told(f"cannot begin an upload in bucket {self.bucket}"):
            where = trial.begin(self.client, {"Bucket": self.bucket, "Key": self.key}, **algorithm, **self.put_options)
        try:
            return self._refuses(
                lambda: self.client.upload_part(**where, PartNumber=1, Body=content, **checksums(content, sha256, md5))
            )
        finally:
            with told(f"cannot end an upload in bucket {self.bucket}"):
                trial.end(self.client, where)

    def _if_none_match(self, content) -> str:
        with told(f"cannot write to bucket {self.bucket}"):
            self._put(content, False, True)  # it is there now, whatever was refused before
            try:
                self._put(content, False, True, IfNoneMatch="*")
                return "ignored"
            except self.client.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status in (409, 412):
                    return "honoured"
                if status in (400, 501):
                    return "refused"
                raise

    def remove(self) -> None:
        """Removes what was written; a key that may not delete leaves a kilobyte."""
        for key in (self.key, self.key + keeping.PARTS):
            locking.sweep(self.remover, self.bucket, key)


def checksums(content: bytes, sha256: bool, md5: bool) -> dict:
    """The arguments of put_object and upload_part that make the place check content."""
    found = {}
    if sha256:
        found["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(content).digest()).decode()
    if md5:
        found["ContentMD5"] = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    return found


def findings(target, folder: Path) -> Iterator[Finding]:
    """What probe() of an S3 target says: the facts, found anew, then a small file's way there and back."""
    try:
        facts = target.facts(anew=True)
    except TargetError as error:
        yield Finding(False, "write", error.message, error.hint)
        return
    if facts.wrong:
        yield Finding(False, "write", facts.wrong, "correct the option, or the key's rights: nothing is put as it is")
        return
    yield Finding(True, "write", f"{facts.place} takes files")
    for note in facts.notes:
        yield Finding(True, "options", note, "correct the option, or live with it", True)
    if facts.put_checked and facts.part_checked:
        yield Finding(True, "checksums", "damaged bytes are refused: a finished copy is verified")
    else:
        message = "damaged bytes are accepted: every copy is read back to verify it"
        yield Finding(True, "checksums", message, "this costs the time and the traffic of a download", True)
    if facts.if_none_match == "honoured":
        yield Finding(True, "overwrite", "If-None-Match is honoured")
    else:
        message = f"If-None-Match is {facts.if_none_match}: files are protected only by a look before"
        yield Finding(True, "overwrite", message, "let one backup server alone write below a prefix", True)
    yield from shown.locks(target, facts)
    name = f".stowage/probe-{secrets.token_hex(4)}"
    path = folder / name.rpartition("/")[2]
    content = secrets.token_bytes(4096)
    try:
        files.write_synced(path, content)
        yield from _way_there_and_back(target, name, path, content)
    except TargetError as error:
        archived = "is archived" in error.message  # as asked for with storage_class
        yield Finding(archived, "read", error.message, error.hint, archived)
    finally:
        path.unlink(missing_ok=True)
    yield from _leftovers(target)
    yield from shown.findings(target, facts)


def _way_there_and_back(target, name: str, path: Path, content: bytes) -> Iterator[Finding]:
    target.put(name, path)
    right = b"".join(target.read(name)) == content
    yield Finding(right, "read", "files come back" if right else "other bytes came back")
    try:
        right = b"".join(target.read(name, 1000, 100)) == content[1000:1100]
        yield Finding(right, "ranges", "ranges come back" if right else "other bytes came back for a range")
    except TargetError as error:
        yield Finding(False, "ranges", error.message, error.hint)
    listed = [found.name for found in target.list(name)] == [name]
    yield Finding(listed, "list", "files are listed" if listed else "a file that was written is not listed")
    yield from shown.removal(target, name)


def _leftovers(target) -> Iterator[Finding]:
    count = target.foreign_uploads(clock.now_ns() - FACTS_LAST_NS)
    if count:
        message = f"{count} unfinished uploads older than a week, not known to this server, lie below the prefix"
        hint = "a lifecycle rule AbortIncompleteMultipartUpload removes such"
        yield Finding(True, "leftovers", message, hint, True)
