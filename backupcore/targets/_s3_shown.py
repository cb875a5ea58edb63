"""What `check` says of locks, rules and versions of an S3 place, and how a probe's file goes again.

Not here: how locks and versions are found and tried (_s3_lock.py, _s3_versions.py), the other findings (_s3_probe.py).
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

from backupcore import text
from backupcore.hookspecs import Finding, TargetError

from . import _s3_moves as moves
from . import _s3_versions as versions

LIFECYCLE = "a lifecycle rule NoncurrentVersionExpiration removes such"


def locks(target: Any, facts: Any) -> Iterator[Finding]:
    """What the bucket locks, by itself and when asked."""
    mode = target.options.lock_mode
    if mode and facts.lock == mode and facts.lock_tried:
        yield Finding(True, "lock", f"Object Lock ({mode}) holds: a locked file was not removed")
    elif mode and facts.lock == mode:
        message = f"Object Lock ({mode}) is kept; whether it holds nobody tried: this key may not remove versions"
        yield Finding(True, "lock", message, "delete_credentials: of a key that may", True)
    elif mode:
        hint = "make a bucket with Object Lock, or leave lock_mode: away"
        yield Finding(False, "lock", f"nothing can be locked: {facts.unlocked}", hint)
    if facts.default_lock:
        message = f"the bucket locks every file by itself: {facts.default_lock}"
        yield Finding(True, "default lock", message, "prune removes nothing before that", True)
        if not facts.locks_parts:
            message = "it does not lock files in upload parts, as large ones are put"
            yield Finding(True, "default lock", message, "lock: of a copy locks these too", True)


def removal(target: Any, name: str) -> Iterator[Finding]:
    """Removes a file of a probe, with the key that prune has; what that shows."""
    remover = target.remover()
    apart = remover is not target
    try:
        remover.delete(name)
    except TargetError as error:
        if target.facts().default_lock:
            with contextlib.suppress(TargetError):
                remover.hide(name)  # clean() removes it when it may
            yield Finding(True, "delete", error.message, error.hint, True)
        elif not apart:
            raise
        else:
            yield Finding(False, "delete", f"the key that may delete: {error.message}", error.hint)
        return
    finally:
        target.only_hides = target.only_hides or remover.only_hides
        if apart:
            remover.close()
    gone = target.stat(name) is None
    good = "files are removed by another key than the night's, as delete_... says" if apart else "files are removed"
    yield Finding(gone, "delete", good if gone else "a removed file is still there")


def findings(target: Any, facts: Any) -> Iterator[Finding]:
    """Whether parts are moved as asked for; what older versions there are, and whether they can be removed."""
    if target.options.transition:
        yield from moves.findings(target.client(), target.bucket, target.prefix, target.options.transition, facts.notes)
    if not facts.versions:
        return
    if target.only_hides:
        message = "the bucket keeps versions, and this key may not remove them: what is removed is only hidden"
        hint = f"{LIFECYCLE}; or allow s3:ListBucketVersions and s3:DeleteObjectVersion"
        yield Finding(True, "versions", message, hint, True)
    try:
        found = versions.census(target.client(), target.bucket, target.prefix)
    except versions.NotAllowed:
        return
    atleast = "at least " if found.more else ""
    if found.older:
        message = f"{atleast}{found.older} older versions ({text.size(found.bytes)}) take room below the prefix"
        yield Finding(True, "versions", message, LIFECYCLE, True)
    if found.hidden:
        first = text.escape(found.first[len(target.prefix) :])
        message = f"{atleast}{found.hidden} files are hidden by delete markers and still there, the first: {first}"
        yield Finding(True, "hidden", message, "stowage verify brings back what belongs to a copy", True)
