"""Objects that sleep in an archive class of S3: told as that, asked for, and whether they are awake by now.

Here live the classes, RestoreObject and what the place says of it. Not here: who waits for them (restore/).
"""

from __future__ import annotations

from typing import Any, Callable, Tuple

from backupcore.hookspecs import Asleep

from ._s3_errors import code_of

# how long the place usually takes, by class and tier, as AWS says (November 2026)
_TAKES = {
    ("GLACIER", "Expedited"): "1 to 5 minutes",
    ("GLACIER", "Standard"): "3 to 5 hours",
    ("GLACIER", "Bulk"): "5 to 12 hours",
    ("DEEP_ARCHIVE", "Standard"): "up to 12 hours",
    ("DEEP_ARCHIVE", "Bulk"): "up to 48 hours",
}
# the tiers of INTELLIGENT_TIERING that have to be asked for, and the class whose times they have
_TIERS = {"ARCHIVE_ACCESS": "GLACIER", "DEEP_ARCHIVE_ACCESS": "DEEP_ARCHIVE"}
SLEEPING = ("GLACIER", "DEEP_ARCHIVE")  # GLACIER_IR is read at once


def takes(kind: str, tier: str) -> str:
    """How long a class usually takes, '' when nobody said."""
    return _TAKES.get((kind, tier), "")


def tier_of(kind: str, tier: str) -> str:
    """The tier that a class knows: DEEP_ARCHIVE has no Expedited."""
    return "Standard" if tier == "Expedited" and kind == "DEEP_ARCHIVE" else tier


def asleep(name: str, place: str, kind: str, tier: str) -> Asleep:
    """The error of one that cannot be read now."""
    kind = _TIERS.get(kind, kind) or "GLACIER"
    tier = tier_of(kind, tier)
    usual = takes(kind, tier)
    how = f"{kind} wakes in {usual} ({tier})" if usual else ""
    return Asleep(f"{name} in {place} is archived and asleep", how)


def state_of(head: Any) -> Tuple[str, bool, bool]:
    """(class it sleeps in or '', awake now, asked for already) by the answer of head_object."""
    tier = str(head.get("ArchiveStatus") or "")
    kind = _TIERS.get(tier) or str(head.get("StorageClass") or "")
    told = str(head.get("Restore") or "")
    asked = 'ongoing-request="true"' in told
    awake = (kind not in SLEEPING and not tier) or 'ongoing-request="false"' in told
    return kind if kind in SLEEPING else "", awake and not asked, asked


def wake(client: Any, bucket: str, key: str, days: int, tier: str, woken: Callable[[int], Any] = int) -> bool:
    """Asks for an object unless it is awake or was asked for; whether it can be read now. Errors are botocore's.
    woken: told its bytes when it was asked for now: they are billed."""
    head = client.head_object(Bucket=bucket, Key=key)
    kind, awake, asked = state_of(head)
    if awake or asked:
        return awake
    wanted: dict = {"GlacierJobParameters": {"Tier": tier_of(kind, tier)}}
    if not head.get("ArchiveStatus"):  # what INTELLIGENT_TIERING wakes stays awake by its own rules
        wanted["Days"] = days
    try:
        client.restore_object(Bucket=bucket, Key=key, RestoreRequest=wanted)
        woken(head.get("ContentLength") or 0)
    except client.exceptions.ClientError as error:
        if code_of(error) == "RestoreAlreadyInProgress":
            return False
        if code_of(error) not in ("ObjectAlreadyInActiveTierError", "ObjectAlreadyInActiveTier"):
            raise
    return state_of(client.head_object(Bucket=bucket, Key=key))[1]
