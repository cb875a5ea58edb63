"""What is asked of each object besides its bytes: encryption at the place, tags, storage class; and whether it is kept.

Here live the options, the arguments they become, and the proof: objects are put with them and asked back, in one
request and in upload parts, since places differ in both. Not here: locks (_s3_lock.py), how bytes get there.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Literal, NamedTuple, Optional
from urllib.parse import quote

from pydantic import BaseModel, Field, field_validator, model_validator

from backupcore.hookspecs import TargetError
from backupcore.image import layout

from . import _s3_moves as moves
from . import _s3_trial as trial
from ._s3_errors import code_of, explained, told

ENCRYPTION = ("AES256", "aws:kms", "aws:kms:dsse")
MOST_TAGS = 10
PARTS = ".parts"  # the end of the second key of a proof
_TAG = re.compile(r"[\w \t+\-=._:/@]*\Z")
# less costs more in every class of rarely read files than in STANDARD, since so much is billed at least
SMALLEST_IN_CLASS = 128 << 10


class ObjectOptions(BaseModel):
    """What objects are to have; part of the options of an S3 target."""

    storage_class: Optional[str] = Field(default=None, pattern=r"^[A-Z0-9_]+$")
    sse: Optional[Literal["AES256", "aws:kms", "aws:kms:dsse"]] = None
    kms_key: Optional[str] = Field(default=None, pattern=r"^[A-Za-z0-9:/_.@-]{1,2048}$")
    bucket_key: bool = False
    tags: Dict[str, str] = Field(default_factory=dict)
    transition: Dict[str, int] = Field(default_factory=dict)
    lock_mode: Optional[Literal["governance", "compliance"]] = None

    @field_validator("tags")
    @classmethod
    def _within_limits(cls, tags: Dict[str, str]) -> Dict[str, str]:
        if len(tags) > MOST_TAGS:
            raise ValueError(f"S3 takes {MOST_TAGS} tags at most")
        for key, value in tags.items():
            if not 1 <= len(key) <= 128 or len(value) > 256:
                raise ValueError(f"tag {key[:40]!r}: a key has 1 to 128 characters, a value up to 256")
            if not _TAG.match(key) or not _TAG.match(value):
                raise ValueError(f"tag {key!r}: letters, digits, blanks and + - = . _ : / @ make a tag")
            if key.lower().startswith("aws:"):
                raise ValueError(f"tag {key!r}: keys that begin with aws: are Amazon's own")
        return tags

    @field_validator("transition")
    @classmethod
    def _moves(cls, given: Dict[str, int]) -> Dict[str, int]:
        return moves.checked(given)

    @model_validator(mode="after")
    def _tag_of_parts(self) -> "ObjectOptions":
        if self.transition and (len(self.tags) >= MOST_TAGS or set(moves.TAG) & set(self.tags)):
            raise ValueError(f"transition needs the tag {next(iter(moves.TAG))!r} for itself, of {MOST_TAGS} in all")
        return self

    @model_validator(mode="after")
    def _keys_of_kms(self) -> "ObjectOptions":
        if self.kms_key and self.sse not in ("aws:kms", "aws:kms:dsse"):
            raise ValueError("kms_key goes with sse: aws:kms or aws:kms:dsse")
        if self.bucket_key and self.sse != "aws:kms":
            raise ValueError("bucket_key goes with sse: aws:kms")
        return self


def encrypted(options: ObjectOptions) -> Dict[str, Any]:
    """The arguments of a put or a copy that ask for encryption at the place."""
    found: Dict[str, Any] = {}
    if options.sse:
        found["ServerSideEncryption"] = options.sse
    if options.kms_key:
        found["SSEKMSKeyId"] = options.kms_key
    if options.bucket_key:
        found["BucketKeyEnabled"] = True
    return found


def _tags_of(options: ObjectOptions, classed: bool = True) -> Dict[str, str]:
    """classed: of a part that may lie in another class."""
    return {**options.tags, **(moves.TAG if options.transition and classed else {})}


def tagged(options: ObjectOptions, classed: bool = True) -> Dict[str, Any]:
    """The arguments that give tags."""
    tags = _tags_of(options, classed)
    pairs = (f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in tags.items())
    return {"Tagging": "&".join(pairs)} if tags else {}


def arguments(options: ObjectOptions, name: str, size: Optional[int]) -> Dict[str, Any]:
    """What is asked of the object name, of size bytes (None: not known yet), in a put, a begun upload or a copy.

    Image parts alone get the storage class, or the tag by which a rule moves them: what is read before a part
    (manifest, signature, keys, tables, sums) must come at once also where parts are archived, and small files are
    cheaper in the bucket's usual class.
    """
    classed = _may_be_classed(name, size)
    found = {**encrypted(options), **tagged(options, classed)}
    if options.storage_class and classed:
        found["StorageClass"] = options.storage_class
    return found


def _may_be_classed(name: str, size: Optional[int]) -> bool:
    is_part = layout.parse_part_name(name.rpartition("/")[2]) is not None
    return is_part and (size is None or size >= SMALLEST_IN_CLASS)


def tag_set(options: ObjectOptions, name: str, size: Optional[int]) -> List[Dict[str, str]]:
    """The tags as they are given to an object that is there already."""
    return [{"Key": key, "Value": value} for key, value in _tags_of(options, _may_be_classed(name, size)).items()]


class Kept(NamedTuple):
    """What the place made of it. wrong: why nothing may be put there, '' when it may. notes: what it does not keep and
    nobody is harmed by. tag_after: files in upload parts keep tags only when they are given afterwards."""

    wrong: str
    notes: List[str]
    tag_after: bool = False


def prove(client: Any, bucket: str, key: str, options: ObjectOptions) -> Kept:
    """Puts small objects at key with what is asked for and asks it back; the caller removes them."""
    return _Proof(client, bucket, key, options).kept()


class _Proof:
    def __init__(self, client: Any, bucket: str, key: str, options: ObjectOptions):
        self.client, self.options = client, options
        self.where = {"Bucket": bucket, "Key": key}
        # a key of its own: some places leave an object that is put again with the tags of the one before
        self.where_of_parts = {"Bucket": bucket, "Key": key + PARTS}
        self.what = f"cannot try what bucket {bucket} keeps"
        self.notes: List[str] = []
        self.tag_after = False

    def kept(self) -> Kept:
        options = self.options
        for asked, ask_back, name in (
            (encrypted(options), self._encryption, f"sse: {options.sse}"),
            (tagged(options), self._tags, "tags:" if options.tags else "the tag of transition:"),
        ):
            for put in (self._whole, self._in_parts) if asked else ():
                # a bucket may take encrypted files only: the tags go with the encryption that was found to be kept
                more = encrypted(options) if ask_back == self._tags else {}
                wrong = self._refused(put, {**more, **asked}, name) or ask_back(put == self._in_parts)
                if wrong:
                    return Kept(wrong, self.notes)
        if options.storage_class:
            more = {"StorageClass": options.storage_class, **encrypted(options), **tagged(options)}
            wrong = self._refused(self._whole, more, f"storage_class: {options.storage_class}")
            if wrong:
                return Kept(wrong, self.notes)
            self._class()
        refused = moves.refused_class(self.client, self.where, options.transition, **encrypted(options))
        if refused:
            self.notes.append(refused)
        return Kept("", self.notes, self.tag_after)

    def _refused(self, put: Callable[[dict], None], asked: dict, name: str) -> str:
        """Puts; why the place takes no such object, '' when it does. Raises what has nothing to do with it."""
        try:
            put(asked)
        except self.client.exceptions.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = code_of(error)
            if status in (400, 501) or code.startswith("KMS"):
                return f"the server refuses {name} ({code})"
            if status == 403 and self._takes_plain():
                return f"this key may not write with {name} ({code})"
            raise explained(error, self.what) from None
        return ""

    def _takes_plain(self) -> bool:
        """Whether it takes an object of which nothing is asked: then what was asked for is to blame."""
        try:
            self._whole({})
            return True
        except self.client.exceptions.ClientError:
            return False

    def _whole(self, asked: dict) -> None:
        self.client.put_object(**self.where, Body=b"stowage", **asked)

    def _in_parts(self, asked: dict) -> None:
        trial.put(self.client, self.where_of_parts, b"stowage", asked)

    def _encryption(self, in_parts: bool) -> str:
        options = self.options
        with told(self.what):
            found = self.client.head_object(**(self.where_of_parts if in_parts else self.where))
        kept = found.get("ServerSideEncryption")
        if kept != options.sse:
            what = "files in upload parts" if in_parts else "files"
            how = f"as {kept}" if kept else "in the clear"
            return f"the server ignores sse: {options.sse}: {what} would lie there {how}"
        key = found.get("SSEKMSKeyId") or ""
        if options.kms_key and "alias/" not in options.kms_key and _last(key) != _last(options.kms_key):
            return f"the server encrypts with another key than kms_key: {key or 'none is told'}"
        if options.bucket_key and not found.get("BucketKeyEnabled") and not in_parts:
            self.notes.append("bucket_key is ignored: each object costs a request to the key service")
        return ""

    def _tags(self, in_parts: bool) -> str:
        try:
            kept = self._has_tags(self.where_of_parts if in_parts else self.where)
            if not kept and in_parts:
                tags = [{"Key": key, "Value": value} for key, value in _tags_of(self.options).items()]
                self.client.put_object_tagging(**self.where_of_parts, Tagging={"TagSet": tags})
                kept = self.tag_after = self._has_tags(self.where_of_parts)
            note = "" if kept else "are not kept: rules by tags do not see these files"
        except self.client.exceptions.ClientError as error:
            note = f"cannot be asked back ({code_of(error)}): nobody knows whether they are kept"
        if note:
            self.notes.append(f"tags{' of files in upload parts' if in_parts else ''} {note}")
        return ""

    def _has_tags(self, where: dict) -> bool:
        found = self.client.get_object_tagging(**where).get("TagSet", ())
        return {one["Key"]: one["Value"] for one in found} == _tags_of(self.options)

    def _class(self) -> None:
        with told(self.what):
            page = self.client.list_objects_v2(Bucket=self.where["Bucket"], Prefix=self.where["Key"], MaxKeys=1)
        found = [item.get("StorageClass") for item in page.get("Contents", ())]
        if found and found[0] != self.options.storage_class:
            self.notes.append(f"storage_class: {self.options.storage_class} is ignored: files lie in {found[0]}")


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def check_answer(answer: dict, options: ObjectOptions, what: str) -> None:
    """Raises TargetError when the answer to a put or a begun upload tells another encryption than was asked for."""
    kept = answer.get("ServerSideEncryption")
    if options.sse and kept not in (None, options.sse):
        raise TargetError(f"{what}: the server encrypts as {kept}, not as sse: {options.sse}", "stowage check")
