"""Targets that are no places of their own: two at one place, one in a folder of the engine's, one named `holding`.

Two names for one place would count one copy as two, and what prune removes from the one would be gone from the other;
`holding` is the word for the holding disk. Here lives what can be seen in the configuration alone: one place by way of
two addresses is not known here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

from .. import settings as s
from ..catalog.records import HOLDING

# options that say where a place is, whatever its kind; without any of them all options say it
_WHERE = ("endpoint", "bucket", "prefix", "host", "port", "user", "path", "put")
_OWN = "give each a folder or prefix of its own"


def look(builder: Any, targets: Mapping[str, s.TargetSettings]) -> None:
    """Tells builder (config._Builder) of each that is not."""
    seen: Dict[Tuple[Any, ...], str] = {}
    for name, one in targets.items():
        loc = ("targets", name)
        if name == HOLDING:
            builder._wrong(loc, f'"{HOLDING}" cannot name a target: it is the word for the holding disk', "rename it")
            continue
        if not one.options:
            continue  # wrong in themselves, and told
        other = seen.setdefault(_place(one), name)
        if other != name:
            message = f'"{other}" is the same place: prune would remove the files of one by way of the other'
            builder._wrong(loc, message, _OWN)
        if one.type == "directory" and one.options.get("path"):
            for folder in (*(disk.path for disk in builder.root.holding), builder.root.state):
                if Path(_real(folder)) in (path := Path(_real(one.options["path"])), *path.parents):
                    message = f"{one.options['path']} lies in {folder}, which is the engine's own"
                    builder._wrong((*loc, "path"), message, _OWN)
                    break


def _place(one: s.TargetSettings) -> Tuple[Any, ...]:
    said = {key: one.options.get(key) for key in _WHERE if one.options.get(key) not in (None, "")}
    if one.type == "directory" and said:
        return one.type, _real(said["path"])
    if "host" in said and os.path.isabs(str(said.get("path", ""))):
        said.pop("user", None)
    told = {key: _told(key, value) for key, value in (said or one.options).items()}
    return one.type, *sorted(told.items())


def _told(key: str, value: Any) -> str:
    return repr(value) if key == "put" else str(value).rstrip("/").lower() if key == "endpoint" else str(value).strip()


def _real(path: Any) -> str:
    return os.path.realpath(str(path))
