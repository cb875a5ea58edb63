"""Object Lock: what protects a file of a bucket from being removed, set, asked back, and proven to hold.

A lock is set on a whole object after it was put (PutObjectRetention), never by headers of an upload: some servers
ignore those for objects in upload parts. Nothing is ever shortened, and compliance never becomes governance again. Not
here: which dump is to be locked how long.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import time
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Dict, NamedTuple, Optional

from backupcore import clock
from backupcore.hookspecs import Lock, TargetError

from . import _s3_trial as trial
from . import _s3_versions as versions
from ._s3_errors import code_of, told

MODES = {"governance": "GOVERNANCE", "compliance": "COMPLIANCE"}
# nothing is said of such an object; Ceph's gateway says the second of an object, too
_NONE = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError")
_CONTENT = b"stowage"
# a bucket that locks by itself takes nothing without a checksum
_MD5 = base64.b64encode(hashlib.md5(_CONTENT, usedforsecurity=False).digest()).decode()
# seconds that a probe is locked: the first in which setting, asking and trying to remove it fit
PROBE_SECONDS = (4, 30, 120)


def seen(client: Any, where: Dict[str, str], what: str) -> Lock:
    """What the place says of one version now."""
    found = _asked(client.get_object_retention, where, what).get("Retention", {})
    held = _asked(client.get_object_legal_hold, where, what).get("LegalHold", {}).get("Status") == "ON"
    until, mode = found.get("RetainUntilDate"), str(found.get("Mode") or "").lower()
    return Lock(_ns(until), mode, held) if until is not None and mode else Lock(held=held)


def _asked(ask: Any, where: Dict[str, str], what: str) -> dict:
    with told(what):
        try:
            return ask(**where)
        except Exception as error:
            # a bucket without Object Lock says InvalidRequest
            if code_of(error) in _NONE or code_of(error) == "InvalidRequest":
                return {}
            raise


def _ns(when: datetime) -> int:
    whole = int(when.replace(microsecond=0).timestamp())
    return whole * clock.NS + when.microsecond * 1000


def lock(client: Any, where: Dict[str, str], until_ns: int, mode: str, what: str) -> Lock:
    """Locks one version until then at least. Raises TargetError when the place does not say so afterwards."""
    before = seen(client, where, what)
    strict = "compliance" if "compliance" in (mode, before.mode) else "governance"
    # places keep whole seconds, or less of them than we have
    wanted = max(-(-until_ns // clock.NS) * clock.NS, before.until_ns)
    if before.mode != strict or before.until_ns < wanted:
        _retain(client, where, wanted, strict, before.mode, what)
    found = seen(client, where, what)
    if found.mode != strict or found.until_ns < until_ns:
        kept = f"it says {found.mode} until {clock.iso(found.until_ns)}" if found.mode else "it says there is none"
        raise TargetError(f"{what}: the server did not keep the lock until {clock.iso(wanted)}: {kept}",
                          "stowage check")  # fmt: skip
    return found


def _retain(client: Any, where: Dict[str, str], until_ns: int, mode: str, before: str, what: str) -> None:
    until = datetime.fromtimestamp(-(-until_ns // clock.NS), timezone.utc)
    asked = {**where, "Retention": {"Mode": MODES[mode], "RetainUntilDate": until}}
    with told(what):
        try:
            client.put_object_retention(**asked)
        except client.exceptions.ClientError as error:
            # Ceph's gateway wants this also where a lock becomes stricter
            if code_of(error) != "AccessDenied" or (before, mode) != ("governance", "compliance"):
                raise
            client.put_object_retention(**asked, BypassGovernanceRetention=True)


def hold(client: Any, where: Dict[str, str], on: bool, what: str) -> Lock:
    """Sets or ends a legal hold of one version. Raises TargetError when the place does not say so afterwards."""
    before = seen(client, where, what)
    if before.held == on:
        return before
    with told(what):
        client.put_object_legal_hold(**where, LegalHold={"Status": "ON" if on else "OFF"})
    found = seen(client, where, what)
    if found.held != on:
        raise TargetError(f"{what}: the server did not keep the legal hold {'on' if on else 'off'}", "stowage check")
    return found


def refusal(found: Lock, name: str, place: str) -> Optional[TargetError]:
    """Why a locked file cannot be removed; None when nothing locks it."""
    if found.held:
        return TargetError(f"{name} has a legal hold in {place}", "stowage release ends it")
    if found.until_ns > clock.now_ns():
        until = f"until {clock.iso(found.until_ns)} ({found.mode})"
        return TargetError(f"{name} is locked in {place} {until}", "a later stowage prune removes it")
    return None


class Bucket(NamedTuple):
    """What a bucket does about locks. mode: the one that was proven, ''. wrong: why not. default: what it locks by
    itself, for a person. whole: the default locks files in upload parts, too. tried: somebody who may remove files
    tried to remove a locked one."""

    mode: str = ""
    wrong: str = ""
    default: str = ""
    whole: bool = True
    tried: bool = True


def default(client: Any, bucket: str) -> Optional[str]:
    """The bucket's own retention, `governance for 30 days`, '' when it has none; None without Object Lock."""
    try:
        found = client.get_object_lock_configuration(Bucket=bucket).get("ObjectLockConfiguration", {})
    except client.exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # who may not ask learns it by trying
        return "" if status == 403 else None
    if found.get("ObjectLockEnabled") != "Enabled":
        return None
    rule = found.get("Rule", {}).get("DefaultRetention", {})
    if not rule.get("Mode"):
        return ""
    unit, count = ("days", rule["Days"]) if rule.get("Days") else ("years", rule.get("Years", 0))
    return f"{rule['Mode'].lower()} for {count} {unit[:-1] if count == 1 else unit}"


def prove(
    client: Any, bucket: str, key: str, mode: str, remover: Any, asked: Optional[Dict[str, Any]] = None
) -> Bucket:
    """Locks two small objects for seconds, one of them in upload parts, tries to remove them, waits, removes them.

    What an earlier probe could not remove (killed, or locked by the bucket's own retention) lies at the same key, and
    goes first as far as it may by now. remover: a client that may remove, if there is one. asked: what
    objects are to have besides, since the bucket may take no others. Raises TargetError when trying again may help.
    """
    what = f"cannot try Object Lock in bucket {bucket}"
    own = default(client, bucket)
    if own is None:
        return Bucket(wrong="the bucket has no Object Lock: it has to be made with it")
    proof = _Proof(client, bucket, key, what, remover, asked or {})
    sweep(remover, bucket, key)
    try:
        locks_parts = not own or proof.is_locked(proof.in_parts)
        for put, kind in ((proof.whole, "files"), (proof.in_parts, "files in upload parts")):
            wrong = proof.wrong(put, mode)
            if wrong:
                return Bucket(wrong=f"{kind}: {wrong}", default=own, whole=locks_parts)
    except TargetError as error:
        if error.retry:
            raise
        return Bucket(wrong=error.message, default=own)
    finally:
        proof.wait()
        swept = sweep(remover, bucket, key)
    # what was not removed afterwards either may have stayed for want of the right to remove it
    return Bucket(mode, "", own, locks_parts, swept or bool(own))


def sweep(client: Any, bucket: str, key: str) -> bool:
    """Removes what of earlier probes may be removed, and hides the rest until it may; whether nothing is left."""
    from botocore.exceptions import BotoCoreError, ClientError

    with contextlib.suppress(TargetError, BotoCoreError, ClientError):
        try:
            versions.free(client, bucket, key)
            return True
        except (versions.Kept, versions.NotAllowed):
            client.delete_object(Bucket=bucket, Key=key)
    return False


class _Proof:
    def __init__(self, client: Any, bucket: str, key: str, what: str, remover: Any, asked: Dict[str, Any]):
        self.client, self.what, self.remover, self.asked = client, what, remover, asked
        self.where = {"Bucket": bucket, "Key": key}
        self.until = 0.0  # time.monotonic() at which the last lock of a probe is over

    def whole(self) -> Optional[Dict[str, str]]:
        answer = self.client.put_object(**self.where, Body=_CONTENT, ContentMD5=_MD5, **self.asked)
        return {**self.where, "VersionId": answer["VersionId"]} if answer.get("VersionId") else None

    def in_parts(self) -> Optional[Dict[str, str]]:
        trial.put(self.client, self.where, _CONTENT, self.asked, ContentMD5=_MD5)
        found = self.client.head_object(**self.where)
        return {**self.where, "VersionId": found["VersionId"]} if found.get("VersionId") else None

    def is_locked(self, put: Callable[[], Optional[Dict[str, str]]]) -> bool:
        """Whether the bucket locks by itself what is put so."""
        with told(self.what):
            where = put()
        return where is not None and bool(seen(self.client, where, self.what).mode)

    def wrong(self, put: Callable[[], Optional[Dict[str, str]]], mode: str) -> str:
        """Locks a new version, asks, tries to remove it; what is wrong with that, '' when it held."""
        for seconds in PROBE_SECONDS:
            try:
                with told(self.what):
                    where = put()
                if where is None:
                    return "the bucket keeps no versions, so that nothing in it can be locked"
                # by the server's clock, which decides; ours may be wrong
                end = self._clock() + timedelta(seconds=seconds)
                found = lock(self.client, where, int(end.timestamp()) * clock.NS, mode, self.what)
                self.until = max(self.until, time.monotonic() + seconds + 1)
                removed = self._removed(where)
            except TargetError as error:
                if error.retry:
                    raise
                return error.message
            if not removed:
                return ""
            if self._clock() < end:
                return f"the server says {found.mode} until {clock.iso(found.until_ns)}, and removes it all the same"
        return "the server is too slow to try it"

    def _removed(self, where: Dict[str, str]) -> bool:
        with told(self.what):
            try:
                self.remover.delete_object(**where)
            except self.remover.exceptions.ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (400, 403, 409):
                    return self._gone(where)
                raise
        return self._gone(where)

    def _gone(self, where: Dict[str, str]) -> bool:
        try:
            self.client.head_object(**where)
        except self.client.exceptions.ClientError as error:
            if code_of(error) in ("404", "NoSuchKey", "NoSuchVersion"):
                return True
            raise
        return False

    def _clock(self) -> datetime:
        with told(self.what):
            answer = self.client.list_objects_v2(Bucket=self.where["Bucket"], Prefix=self.where["Key"], MaxKeys=1)
        told_by = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        with contextlib.suppress(ValueError, TypeError):
            return parsedate_to_datetime(told_by)
        return clock.now()

    def wait(self) -> None:
        """Until the last probe's lock is over."""
        time.sleep(max(0.0, min(self.until - time.monotonic(), PROBE_SECONDS[-1] + 1)))
