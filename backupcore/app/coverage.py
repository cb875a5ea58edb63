"""What no source covers: mounts, running databases, homes that a client told of, against its sources.

Here lives the comparison: pure functions from settings and a survey to what is missing. A survey comes from a
client: whatever does not look like one is left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence

from ..agent import patterns
from ..settings import Client

LIMIT = 2000


@dataclass(frozen=True)
class Bare:
    """Something on a client that no source covers. kind: mount, database or home; bytes: 0 when unknown."""

    client: str
    path: str
    kind: str
    name: str = ""
    bytes: int = 0


def missing(client: Client, survey: Mapping[str, Any]) -> List[Bare]:
    """What the survey found, no source covers, and no `ignore` explains; the biggest first."""
    mounts = [one for one in _records(survey, "mounts") if one["path"] != "/"]
    points = [one["path"] for one in mounts]
    found = [
        Bare(client.name, one["path"], kind, str(one.get("name") or one.get("fstype") or "")[:60], _bytes(one))
        for kind, records in (
            ("database", _records(survey, "databases")), ("mount", mounts), ("home", _records(survey, "homes"))
        )
        for one in records
        if not _explained(client, one["path"]) and not _covered(client, one["path"], points, kind)
    ]  # fmt: skip
    unique: Dict[str, Bare] = {}
    for one in found:
        unique.setdefault(one.path, one)
    return sorted(unique.values(), key=lambda one: (-one.bytes, one.path))


def _records(survey: Mapping[str, Any], name: str) -> List[Dict[str, Any]]:
    records = survey.get(name)
    return [
        one for one in (records if isinstance(records, list) else [])[:LIMIT]
        if isinstance(one, dict) and isinstance(one.get("path"), str) and one["path"].startswith("/")
    ]  # fmt: skip


def _bytes(one: Mapping[str, Any]) -> int:
    used = one.get("used", one.get("bytes"))
    return used if isinstance(used, int) and 0 <= used < 1 << 62 else 0


def _explained(client: Client, path: str) -> bool:
    return any(_below(path, ignored) for ignored in client.ignore)


def _below(path: str, folder: str) -> bool:
    """Whether path is folder or lies below it."""
    folder = folder.rstrip("/") or "/"
    return path == folder or path.startswith(folder if folder == "/" else folder + "/")


def _covered(client: Client, path: str, points: Sequence[str], kind: str) -> bool:
    for source in client.sources.values():
        root = source.options.get("path")
        if not isinstance(root, str):
            continue
        if _below(path, root) and _walked(root, path, source.options, points):
            return True
        if kind != "database" and path != root and _below(root, path):
            return True  # a part of it is a source: what to take of it was somebody's choice
    return False


def _walked(root: str, path: str, options: Mapping[str, Any], points: Sequence[str]) -> bool:
    """Whether a walk of root with these options comes to path."""
    if options.get("one_file_system", True) and _mount_of(root, points) != _mount_of(path, points):
        return False
    relative = os.path.relpath(path, root)
    if relative == ".":
        return True
    try:
        exclude = patterns.Exclude(options.get("exclude") or ())
        include = patterns.Include(options.get("include") or ())
    except (ValueError, TypeError):
        return False
    names = os.fsencode(relative).split(b"/")
    for count in range(1, len(names) + 1):
        if exclude.matches(b"/".join(names[:count]), names[count - 1], True):
            return False
    return include.empty or include.matches(b"/".join(names), True) != patterns.OUT


def _mount_of(path: str, points: Iterable[str]) -> str:
    return max((point for point in points if _below(path, point)), key=len, default="/")
