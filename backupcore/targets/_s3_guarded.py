"""Of an S3 target, what protects files from being removed, and removing them: locks, versions, delete markers.

Here lives that half of the contract's face; how it is done is in _s3_lock.py and _s3_versions.py. Not here: the
other half (s3.py).
"""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator

from backupcore.hookspecs import Lock, TargetError, safe_name

from . import _s3_lock as locking
from . import _s3_versions as versions
from ._s3_errors import code_of, told


class Guarded:
    """What S3Target is besides: it has the bucket, the prefix, the client and the facts."""

    bucket: str
    prefix: str
    place: str
    client: Any
    facts: Any
    _known: Any
    only_hides = False  # seen: what is removed in this bucket is only hidden

    def delete(self, name) -> None:
        """Removes the object and all versions of it; where that is not allowed, hides it, as probe() says."""
        key = self.prefix + safe_name(name)
        facts = self.facts()
        if facts.versions and not self.only_hides:
            try:
                versions.free(self.client(), self.bucket, key)
                return
            except versions.NotAllowed:
                self.only_hides = True
            except versions.Kept as kept:
                self._refuse_locked(name, kept.version.id, kept.message)
                self.only_hides = True  # it is no lock: this key may not, or wants a second factor for it
        if facts.versions and (facts.lock or facts.default_lock) and (where := self._newest(name)):
            self._refuse_locked(name, where["VersionId"])
        self.hide(name)

    def hide(self, name: str) -> None:
        """Removes the object; in a bucket that keeps versions, puts a delete marker."""
        with told(f"cannot remove {name} from {self.place}"):
            try:
                self.client().delete_object(Bucket=self.bucket, Key=self.prefix + name)
            except self.client().exceptions.ClientError as error:
                if code_of(error) not in ("NoSuchKey", "404"):
                    raise

    def lock(self, name, until_ns) -> Lock:
        """Locks the newest version in the mode of lock_mode, or keeps the stricter one that it has."""
        facts = self.facts()
        if not facts.lock:
            why = facts.unlocked or "lock_mode: is not set"
            raise TargetError(f"nothing can be locked in {self.place}: {why}", "stowage check")
        where = self._newest(name, needed=True)
        return locking.lock(self.client(), where, until_ns, facts.lock, f"cannot lock {name} in {self.place}")

    def legal_hold(self, name, on) -> Lock:
        """Holds the newest version, or ends that."""
        what = f"cannot {'hold' if on else 'release'} {name} in {self.place}"
        return locking.hold(self.client(), self._newest(name, needed=True), on, what)

    def locked(self, name) -> Lock:
        """What protects the newest version."""
        what = f"cannot ask for the lock of {name} in {self.place}"
        return locking.seen(self.client(), self._newest(name, needed=True), what)

    def hidden(self, prefix="") -> Iterator[str]:
        """Names whose bytes lie hidden below a delete marker; none where nobody may ask."""
        if self._known is not None and not self._known.versions:
            return  # else it is asked without trying anything: who rebuilds may have a key that only reads
        with contextlib.suppress(versions.NotAllowed):
            for found in versions.below(self.client(), self.bucket, self.prefix + prefix):
                name = found[0].key[len(self.prefix) :]
                with contextlib.suppress(TargetError):
                    if versions.is_hidden(found):
                        yield safe_name(name)

    def unhide(self, name) -> None:
        """Brings back what a delete marker hides: its newest version."""
        key = self.prefix + safe_name(name)
        with contextlib.suppress(versions.NotAllowed):
            versions.unhide(self.client(), self.bucket, versions.of(self.client(), self.bucket, key))

    def _newest(self, name: str, needed: bool = False) -> Dict[str, str]:
        """Where the newest version of a name is; empty (or with needed an error) when there is none."""
        key = self.prefix + safe_name(name)
        with told(f"cannot look at {name} in {self.place}"):
            try:
                found = self.client().head_object(Bucket=self.bucket, Key=key)
            except self.client().exceptions.ClientError as error:
                if needed or code_of(error) not in ("NoSuchKey", "404"):
                    raise
                return {}
        return {"Bucket": self.bucket, "Key": key, "VersionId": found.get("VersionId") or "null"}

    def _refuse_locked(self, name: str, version: str, message: str = "") -> None:
        """Raises TargetError when that version is locked. message: of a refusal to remove it."""
        where = {"Bucket": self.bucket, "Key": self.prefix + name, "VersionId": version}
        try:
            error = locking.refusal(locking.seen(self.client(), where, f"cannot remove {name}"), name, self.place)
        except TargetError:  # who may not ask has the refusal's words
            error = TargetError(f"{name} is locked in {self.place}") if "lock" in message.lower() else None
        if error is not None:
            raise error

    def refuse_hidden(self, name: str) -> None:
        """Raises TargetError when the bytes of a missing name lie below a delete marker."""
        with contextlib.suppress(versions.NotAllowed):
            found = versions.of(self.client(), self.bucket, self.prefix + name)
            if versions.is_hidden(found):
                raise versions.hidden_error(found, name, self.place)
