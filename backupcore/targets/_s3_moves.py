"""A rule of the bucket that moves parts of images to other storage classes after some days: `transition`.

Rules choose by prefix, size and tags, never by the end of a name, and what is read before a part (manifest, keys,
tables) has to stay awake: so parts get a tag of ours, and the rule takes what has it. Here live what may be asked for,
the rule, and whether a bucket has it. Not here: how rules are put (_s3_bucket.py), tags of objects (_s3_kept.py).
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from backupcore.hookspecs import Finding

from ._s3_errors import code_of, explained

TAG = {"stowage": "part"}
UNKNOWN = ("NotImplemented", "MethodNotAllowed", "405", "501", "XNotImplemented", "UnsupportedOperation")
MOST_DAYS = 36500
# AWS moves only from an earlier line to a later one
_ORDER = {"STANDARD": 0, "STANDARD_IA": 1, "INTELLIGENT_TIERING": 2, "ONEZONE_IA": 3, "GLACIER_IR": 3, "GLACIER": 4,
          "DEEP_ARCHIVE": 5}  # fmt: skip
REFUSED = "the server refuses the storage class"
_LATE = ("STANDARD_IA", "ONEZONE_IA")  # AWS moves there after 30 days, and on from there after 30 more
LATE_DAYS = 30


def checked(moves: Mapping[str, int]) -> Dict[str, int]:
    """Class: days, the earliest first. Raises ValueError."""
    for kind, days in moves.items():
        if not re.fullmatch(r"[A-Z0-9_]+", kind):
            raise ValueError(f"{kind[:40]!r} is no storage class: write it as GLACIER")
        if not 1 <= days <= MOST_DAYS:
            raise ValueError(f"{kind} after {days} days: write 1 to {MOST_DAYS}; at once is storage_class:")
    if len(set(moves.values())) < len(moves):
        raise ValueError("two classes after the same days")
    return dict(sorted(moves.items(), key=lambda item: item[1]))


def at_aws(endpoint: Optional[str]) -> bool:
    """Whether an endpoint is AWS's."""
    host = urlsplit(endpoint or "https://s3.amazonaws.com").hostname or ""
    return host == "amazonaws.com" or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def check_aws(moves: Mapping[str, int], first: Optional[str]) -> None:
    """Raises ValueError for what AWS refuses. first: the class in which parts are put."""
    before, since = first or "STANDARD", 0
    for kind, days in moves.items():
        if kind not in _ORDER:
            raise ValueError(f"AWS knows no storage class {kind}: " + ", ".join(list(_ORDER)[1:]))
        if _ORDER[kind] <= _ORDER.get(before, 0):
            raise ValueError(f"AWS moves nothing from {before} to {kind}")
        if kind in _LATE and days < LATE_DAYS:
            raise ValueError(f"AWS moves to {kind} after {LATE_DAYS} days at the earliest, not after {days}")
        if since and before in _LATE and days < since + LATE_DAYS:
            soonest = since + LATE_DAYS
            raise ValueError(f"AWS leaves files in {before} for {LATE_DAYS} days: {kind} after {soonest} or more")
        before, since = kind, days


def told(moves: Mapping[str, int]) -> str:
    """`parts move to GLACIER after 30 days`."""
    steps = ", ".join(f"to {kind} after {days} day{'s' * (days > 1)}" for kind, days in moves.items())
    return f"parts of images move {steps}"


def rule(name: str, prefix: str, moves: Mapping[str, int]) -> Dict[str, Any]:
    """The rule as it is put."""
    ((key, value),) = TAG.items()
    tag = {"Key": key, "Value": value}
    chosen = {"And": {"Prefix": prefix, "Tags": [tag]}} if prefix else {"Tag": tag}
    steps = [{"Days": days, "StorageClass": kind} for kind, days in moves.items()]
    return {"ID": name, "Status": "Enabled", "Filter": chosen, "Transitions": steps}


def does(there: Optional[Mapping[str, Any]], wanted: Mapping[str, Any]) -> bool:
    """Whether a rule that was read back says what was wanted; servers write a filter in several ways."""
    if there is None or there.get("Status") != "Enabled" or _chosen(there) != _chosen(wanted):
        return False
    for act in ("AbortIncompleteMultipartUpload", "NoncurrentVersionExpiration"):
        if any((there.get(act) or {}).get(key) != value for key, value in wanted.get(act, {}).items()):
            return False
    return "Transitions" not in wanted or _steps(there) == _steps(wanted)


def _chosen(one: Mapping[str, Any]) -> Tuple[Any, ...]:
    given = one.get("Filter") or {}
    given = given.get("And") or given
    tags = [*given.get("Tags", ()), *([given["Tag"]] if given.get("Tag") else [])]
    sizes = given.get("ObjectSizeGreaterThan") or 0, given.get("ObjectSizeLessThan") or 0  # AWS answers 0 for none
    prefix = one.get("Prefix") or given.get("Prefix") or ""
    return prefix, sorted((tag["Key"], tag["Value"]) for tag in tags), sizes


def _steps(one: Mapping[str, Any]) -> List[Tuple[Any, Any]]:
    return sorted((step.get("StorageClass"), step.get("Days")) for step in one.get("Transitions", ()))


def refused_class(client: Any, where: Mapping[str, str], moves: Mapping[str, int], **more: Any) -> str:
    """Why nothing would move, '' when all is well: some servers take a rule with a class that they do not know. Puts
    objects at where, which the caller removes; none at AWS, which would bill them for months. Raises TargetError."""
    if at_aws(client.meta.endpoint_url):
        return ""
    for kind in moves:
        try:
            client.put_object(**where, Body=b"stowage", StorageClass=kind, **more)
        except client.exceptions.ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (400, 501):
                return f"{REFUSED} {kind} ({code_of(error)})"
            raise explained(error, f"cannot try the storage class {kind}") from None
    return ""


def findings(client: Any, bucket: str, prefix: str, moves: Mapping[str, int], notes: List[str]) -> Iterator[Finding]:
    """What `check` says: whether the bucket has the rule, and can see the tag. notes: what is not kept of objects."""
    if any(note.startswith("tags") for note in notes):
        message = "the server does not keep tags, so no rule can tell parts from what has to stay awake"
        yield Finding(False, "transition", message, "leave transition: away; storage_class: puts parts there at once")
        return
    if any(note.startswith(REFUSED) for note in notes):
        yield Finding(False, "transition", "parts do not move: see options", "correct transition:")
        return
    try:
        found = client.get_bucket_lifecycle_configuration(Bucket=bucket).get("Rules", [])
    except client.exceptions.ClientError as error:
        code = code_of(error)
        if code in UNKNOWN:
            yield Finding(False, "transition", "the server knows no lifecycle of buckets", "leave transition: away")
            return
        if code not in ("NoSuchLifecycleConfiguration", "NoSuchLifecycle"):
            refused = explained(error, f"cannot see the rules of bucket {bucket}")
            yield Finding(True, "transition", refused.message, "allow s3:GetLifecycleConfiguration", True)
            return
        found = []
    wanted = rule("", prefix, moves)
    if any(does(one, wanted) for one in found):
        yield Finding(True, "transition", told(moves))
        return
    message = f"no rule of bucket {bucket} says that {told(moves)}"
    hint = "stowage target add --create puts one there; docs/targets.md shows it"
    yield Finding(True, "transition", message, hint, True)
