"""Buckets that keep versions: removing what is there so that its room is free, and finding what somebody hid.

A version that is not the newest, or that lies below a delete marker, is never removed but with its name, when that is
to be removed: it may be the good one, and a marker or a newer version the work of an enemy. Not here: locks
(_s3_lock.py).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Iterator, List, NamedTuple, Optional

from backupcore.hookspecs import TargetError

from ._s3_errors import code_of, explained, told

PAGES_LOOKED_AT = 20  # of a thousand versions each, by probe(): a look, no census
_GONE = ("NoSuchVersion", "NoSuchKey", "404")
_NO_VERSIONS = ("NotImplemented", "MethodNotAllowed", "InvalidArgument")


class Version(NamedTuple):
    """One version of a key. marker: it says that the key is deleted, and has no bytes."""

    key: str
    id: str
    size: int
    marker: bool
    latest: bool
    modified: datetime


class NotAllowed(Exception):
    """This key may not ask for versions, or the server knows none."""


def status(client: Any, bucket: str) -> Optional[str]:
    """Enabled, Suspended, '' of a bucket that never kept versions; None when nobody may ask."""
    try:
        return client.get_bucket_versioning(Bucket=bucket).get("Status", "")
    except client.exceptions.ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in (400, 403, 404, 405, 501):
            return None
        raise explained(error, f"cannot ask bucket {bucket} for its versioning") from None


def below(client: Any, bucket: str, prefix: str, pages: Optional[int] = None) -> Iterator[List[Version]]:
    """Versions of each key that begins with prefix, the newest first. pages: that many requests at most."""
    what = f"cannot list the versions in bucket {bucket}"
    answers = iter(client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix))
    found: List[Version] = []
    while pages is None or pages > 0:
        with told(what):
            try:
                page = next(answers, None)
            except client.exceptions.ClientError as error:
                http = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if http == 403 or code_of(error) in _NO_VERSIONS:
                    raise NotAllowed(code_of(error)) from None
                raise
        if page is None:
            break
        pages = None if pages is None else pages - 1
        listed = [_version(one, False) for one in page.get("Versions", ())]
        listed += [_version(one, True) for one in page.get("DeleteMarkers", ())]
        # a page lists markers and others apart; a key's versions may go on in the next one
        for one in sorted(listed, key=lambda one: (one.key.encode(), not one.latest, -one.modified.timestamp())):
            if found and found[0].key != one.key:
                yield found
                found = []
            found.append(one)
    if found:
        yield found


def _version(one: dict, marker: bool) -> Version:
    return Version(one["Key"], one["VersionId"], one.get("Size", 0), marker, one["IsLatest"], one["LastModified"])


def of(client: Any, bucket: str, key: str) -> List[Version]:
    """The versions of one key, the newest first; none when it never was. Raises NotAllowed."""
    for found in below(client, bucket, key):
        if found[0].key == key:
            return found
        break  # keys come in their order: what begins with this one comes after it
    return []


def is_hidden(found: List[Version]) -> bool:
    """Whether bytes lie below a delete marker."""
    return bool(found) and found[0].marker and not all(one.marker for one in found)


class Kept(Exception):
    """A version that the place does not let go."""

    def __init__(self, version: Version, message: str):
        super().__init__(message)
        self.version, self.message = version, message


def free(client: Any, bucket: str, key: str) -> None:
    """Removes all versions of a key, the oldest first and markers last: a kill or a refusal in between brings nothing
    old to light, and what is left can still be seen. Raises NotAllowed; Kept when one cannot be removed."""
    found = of(client, bucket, key)
    for version in sorted(found, key=lambda one: (one.marker, one.latest, one.modified)):
        try:
            client.delete_object(Bucket=bucket, Key=key, VersionId=version.id)
        except client.exceptions.ClientError as error:
            if code_of(error) in _GONE:
                continue
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) == 403:
                raise Kept(version, error.response.get("Error", {}).get("Message") or "") from None
            raise explained(error, f"cannot remove a version of {key} from bucket {bucket}") from None


def unhide(client: Any, bucket: str, found: List[Version]) -> None:
    """Takes away the delete markers above the newest version of a key."""
    for version in found:
        if not version.marker:
            return
        with told(f"cannot take the delete marker off {version.key} in bucket {bucket}"):
            client.delete_object(Bucket=bucket, Key=version.key, VersionId=version.id)


class Census(NamedTuple):
    """What older versions lie below a prefix. hidden: names behind delete markers; more: it is only the first of it."""

    older: int = 0
    bytes: int = 0
    hidden: int = 0
    first: str = ""
    more: bool = False


def census(client: Any, bucket: str, prefix: str) -> Census:
    """A look at what takes room and is not seen. Raises NotAllowed, TargetError."""
    older = size = hidden = seen = 0
    first = ""
    for found in below(client, bucket, prefix, PAGES_LOOKED_AT):
        seen += len(found)
        for one in found:
            if not one.latest and not one.marker:
                older, size = older + 1, size + one.size
        if is_hidden(found):
            hidden += 1
            first = first or found[0].key
    return Census(older, size, hidden, first, seen >= PAGES_LOOKED_AT * 1000)


def hidden_error(found: List[Version], name: str, place: str) -> TargetError:
    """What is told about a name whose bytes lie below a delete marker."""
    when = found[0].modified.strftime("%Y-%m-%d %H:%M UTC")
    message = f"{name} is hidden in {place} by a delete marker of {when}; its bytes are still there"
    return TargetError(message, "stowage verify brings it back")
