"""Making a bucket, or looking whether it is as wanted: lock, versions, public access, encryption, lifecycle.

Here lives what is asked of a bucket, each thing looked at, set where it differs, and read back, since servers differ in
what they keep. Nothing is ever taken away: rules of others stay, a lock stays. Not here: objects (s3.py), and whether
what is there works (_s3_probe.py).
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator, Optional

from backupcore.hookspecs import Finding, Making, TargetContext, TargetError

from . import _s3_lock as locking
from . import _s3_moves as moves
from ._s3_client import S3Options, code_of, explained, make_client, told
from ._s3_kept import encrypted

_NONE = ("NoSuchPublicAccessBlockConfiguration", "NoSuchLifecycleConfiguration", "NoSuchLifecycle",
         "ServerSideEncryptionConfigurationNotFoundError", "ObjectLockConfigurationNotFoundError", "NoSuchKey", "404",
         "ObjectLockConfigurationNotFound", "InvalidRequest")  # fmt: skip
_BLOCK = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)


def make(options: S3Options, context: TargetContext, making: Making) -> Iterator[Finding]:
    """Makes the bucket as wanted, or only looks (making.look): a finding for each thing, changed where it was, or would
    be, set. What comes after one that failed is not tried when it needs that."""
    client = make_client(options, context.name)
    try:
        yield from _Bucket(client, options, making).steps()
    finally:
        client.close()


class _Bucket:
    def __init__(self, client: Any, options: S3Options, making: Making):
        self.client, self.options, self.making = client, options, making
        self.bucket = options.bucket
        self.where = {"Bucket": options.bucket}
        self.new = False

    def steps(self) -> Iterator[Finding]:
        """All that is wanted, the bucket first."""
        try:
            yield self._itself()
        except TargetError as error:
            yield Finding(False, "bucket", error.message, error.hint)
            return
        if self.new and self.making.look:
            return  # nothing can be asked of what is not there
        for name, wanted, step in (
            ("versions", self.making.versions or self.making.lock, self._versions),
            ("lock", self.making.lock, self._lock),
            ("public access", self.making.private, self._private),
            ("encryption", bool(self.making.encryption), self._encryption),
            ("lifecycle", self._rules_wanted(), self._lifecycle),
        ):
            if wanted:
                try:
                    yield step()
                except TargetError as error:
                    yield Finding(False, name, error.message, error.hint)

    def _rules_wanted(self) -> bool:
        return bool(self.making.abort_days or self.making.old_days or self.options.transition)

    # -- the bucket

    def _itself(self) -> Finding:
        what = f"cannot look at bucket {self.bucket}"
        try:
            with told(what):
                self.client.list_objects_v2(**self.where, MaxKeys=1)
            return Finding(True, "bucket", f"bucket {self.bucket} is there")
        except TargetError as error:
            if "(NoSuchBucket)" not in error.message:
                raise
        self.new = True
        if self.making.look:
            return Finding(True, "bucket", f"bucket {self.bucket} would be made", changed=True)
        try:
            self._create(self._region())
        except self.client.exceptions.ClientError as error:
            code = code_of(error)
            if code == "BucketAlreadyExists":
                raise TargetError(f"bucket {self.bucket} is somebody else's", "choose another name") from None
            if not (code in ("InvalidLocationConstraint", "MalformedXML") and self.options.endpoint):
                raise explained(error, f"cannot make bucket {self.bucket}") from None
            with told(f"cannot make bucket {self.bucket}"):  # a server of its own, whose region has no such name
                self._create(None)
        where = f" in {self.options.region}" if self.options.region else ""
        return Finding(True, "bucket", f"bucket {self.bucket} was made{where}", changed=True)

    def _region(self) -> Optional[str]:
        region = self.client.meta.region_name
        return region if region not in (None, "us-east-1", "aws-global") else None

    def _create(self, region: Optional[str]) -> None:
        more: dict = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region else {}
        if self.making.lock:
            more["ObjectLockEnabledForBucket"] = True
        self.client.create_bucket(**self.where, **more)

    # -- what it is to have

    def _asked(self, ask: Callable[..., dict], what: str) -> Optional[dict]:
        """An answer, {} when nothing is set; None: the server knows no such thing."""
        try:
            return ask(**self.where)
        except self.client.exceptions.ClientError as error:
            if code_of(error) in moves.UNKNOWN:
                return None
            if code_of(error) in _NONE:
                return {}
            raise explained(error, f"cannot look at {what} of bucket {self.bucket}") from None

    def _keep(self, what: str, is_so: Callable[[], Optional[bool]], put: Callable[[], Any], good: str) -> Finding:
        """good, set and read back where it was not so. is_so: None where the server knows no such thing."""
        before = is_so()
        if before:
            return Finding(True, what, f"{good}, as before")
        if before is None:
            return self._unknown(what)
        if self.making.look:
            return Finding(True, what, f"{good}: would be set", changed=True)
        try:
            put()
        except self.client.exceptions.ClientError as error:
            if code_of(error) in moves.UNKNOWN:
                return self._unknown(what)
            refused = explained(error, f"cannot set {what} of bucket {self.bucket}")
            refused.hint = refused.hint or _INSTEAD.get(what, "")
            if what == "lifecycle" and self.options.transition:
                refused.hint = _CLASS
            raise refused from None
        if not is_so():
            return Finding(False, what, f"the server took {what} of bucket {self.bucket} and did not keep it",
                           "look at it with the server's own tools", changed=True)  # fmt: skip
        return Finding(True, what, good, changed=True)

    def _unknown(self, what: str) -> Finding:
        if what == "lock":
            return Finding(False, what, "the server knows no Object Lock", "leave it away, or take another server")
        if what == "lifecycle" and self.options.transition:
            return Finding(False, what, "the server knows no lifecycle of buckets", "leave transition: away")
        return Finding(True, what, f"the server knows no {what} of buckets", _INSTEAD.get(what, ""), True)

    def _versions(self) -> Finding:
        def is_so() -> Optional[bool]:
            found = self._asked(self.client.get_bucket_versioning, "versions")
            return None if found is None else found.get("Status") == "Enabled"

        def put() -> None:
            self.client.put_bucket_versioning(**self.where, VersioningConfiguration={"Status": "Enabled"})

        return self._keep("versions", is_so, put, "what is overwritten or removed is kept as a version")

    def _lock(self) -> Finding:
        def is_so() -> Optional[bool]:
            found = self._asked(self.client.get_object_lock_configuration, "lock")
            kept = None if found is None else found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
            return None if found is None else kept == "Enabled"

        def put() -> None:
            self.client.put_object_lock_configuration(
                **self.where, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
            )

        try:
            return self._keep("lock", is_so, put, "objects can be locked")
        except TargetError as error:
            if self.new:
                raise
            hint = "many servers lock only in buckets that were made for it: make a new one with --create --lock"
            raise TargetError(error.message, hint) from None

    def _private(self) -> Finding:
        """All four settings; without BlockPublicAcls where the server then refuses every file (Ceph 16 does): public
        ACLs are ignored all the same."""
        what, good = "public access", "no policy or ACL can open it to the public"
        less = {**_BLOCK, "BlockPublicAcls": False}

        def now() -> Optional[dict]:
            found = self._asked(self.client.get_public_access_block, what)
            kept = (found or {}).get("PublicAccessBlockConfiguration", {})
            return None if found is None else {key: bool(kept.get(key)) for key in _BLOCK}

        def put(wanted: dict) -> None:
            self.client.put_public_access_block(**self.where, PublicAccessBlockConfiguration=wanted)

        before = now()
        if self.making.look and before == less:  # whether more is taken shows only when it is set
            return Finding(True, what, f"{good}, as before: public ACLs are ignored", warning=True)
        found = self._keep(what, lambda: None if before is None else now() == _BLOCK, lambda: put(_BLOCK), good)
        if not found.changed or not found.ok or self.making.look or self._takes_files():
            return found
        with told(f"cannot set {what} of bucket {self.bucket}"):
            put(less)
            if not self._takes_files():  # it is not that: the test will say what it is
                put(_BLOCK)
                return found
        kept = now() == less
        message = "the server refuses every file with BlockPublicAcls: it was left off, public ACLs are ignored"
        return Finding(kept, what, message, "see to it that no ACL opens the bucket", kept, before != less)

    @property
    def _key(self) -> dict:
        return {**self.where, "Key": f"{self.options.prefix}/.stowage/probe-of-making".lstrip("/")}

    def _class_refused(self) -> str:
        """Why a class of transition is none there; '' when all are."""
        found = moves.refused_class(self.client, self._key, self.options.transition, **encrypted(self.options))
        if self.options.transition:
            with contextlib.suppress(TargetError):
                locking.sweep(self.client, self.bucket, self._key["Key"])
        return found

    def _takes_files(self) -> bool:
        """Whether a byte can be put; it is removed again, its version too."""
        key = self._key
        try:
            version = self.client.put_object(**key, Body=b"0").get("VersionId")
        except self.client.exceptions.ClientError as error:
            return code_of(error) != "AccessDenied"
        with contextlib.suppress(self.client.exceptions.ClientError):
            self.client.delete_object(**key, **({"VersionId": version} if version else {}))
        return True

    def _encryption(self) -> Finding:
        kind, key = self.making.encryption, ""
        if kind not in ("AES256", "aws:kms"):
            kind, key = "aws:kms", kind
        wanted = {"SSEAlgorithm": kind, **({"KMSMasterKeyID": key} if key else {})}

        def is_so() -> Optional[bool]:
            found = self._asked(self.client.get_bucket_encryption, "encryption")
            if found is None:
                return None
            rules = found.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
            kept = [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules]
            return any(all(one.get(name) == value for name, value in wanted.items()) for one in kept)

        def put() -> None:
            rule = {"ApplyServerSideEncryptionByDefault": wanted, "BucketKeyEnabled": kind != "AES256"}
            self.client.put_bucket_encryption(**self.where, ServerSideEncryptionConfiguration={"Rules": [rule]})

        return self._keep("encryption", is_so, put, f"the place encrypts by itself ({kind})")

    def _lifecycle(self) -> Finding:
        """Rules with names of ours, below our prefix; those of others are put back as they were."""
        making, prefix = self.making, self.options.prefix + "/" if self.options.prefix else ""
        ours, told_of = [], []
        name = f"stowage {prefix.rstrip('/')}".strip()
        if making.abort_days:
            ours.append({"ID": f"{name} unfinished uploads", "Status": "Enabled", "Filter": {"Prefix": prefix},
                         "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": making.abort_days}})  # fmt: skip
            told_of.append(f"unfinished uploads go after {making.abort_days} days")
        if making.old_days:
            ours.append({"ID": f"{name} older versions", "Status": "Enabled", "Filter": {"Prefix": prefix},
                         "NoncurrentVersionExpiration": {"NoncurrentDays": making.old_days}})  # fmt: skip
            told_of.append(f"older versions go after {making.old_days} days")
        if self.options.transition:
            ours.append(moves.rule(f"{name} parts", prefix, self.options.transition))
            told_of.append(moves.told(self.options.transition))
        mine = {rule["ID"] for rule in ours}

        def now() -> Optional[dict]:
            return self._asked(self.client.get_bucket_lifecycle_configuration, "lifecycle")

        def is_so() -> Optional[bool]:
            found = now()
            if found is None:
                return None
            there = {rule.get("ID"): rule for rule in found.get("Rules", ())}
            return all(moves.does(there.get(rule["ID"]), rule) for rule in ours)

        def put() -> None:
            refused = self._class_refused()
            if refused:
                raise TargetError(f"no rule was set: {refused}", _CLASS)
            found = now() or {}
            others = [_filtered(rule) for rule in found.get("Rules", ()) if rule.get("ID") not in mine]
            smallest = {key: found[key] for key in ("TransitionDefaultMinimumObjectSize",) if found.get(key)}
            self.client.put_bucket_lifecycle_configuration(
                **self.where, LifecycleConfiguration={"Rules": [*others, *ours]}, **smallest
            )

        return self._keep("lifecycle", is_so, put, ", ".join(told_of))


_CLASS = "correct transition:, or leave it away: not every server knows every class"
_INSTEAD = {
    "public access": "see to it that no policy and no ACL opens the bucket",
    "lifecycle": "stowage ends its own unfinished uploads; those of others stay",
    "encryption": "encrypt: server or client in a policy seals what is put there",
    "versions": "",
}


def _filtered(rule: dict) -> dict:
    """A rule of somebody else's in today's form: AWS takes no two forms beside each other."""
    if "Prefix" not in rule:
        return rule
    return {**{key: value for key, value in rule.items() if key != "Prefix"}, "Filter": {"Prefix": rule["Prefix"]}}
