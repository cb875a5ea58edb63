"""Which file system a folder lies on, so that a place is known again: the mount point without its disk is another.

Here lives what of that outlasts a reboot; device numbers do not, and identities only of some kinds. Not here:
what a target does about it (directory.py).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple, Optional

from backupcore import files

# kinds whose f_fsid is made of the file system's own identity, not of a device number or of the mount
_KEEPS_ID = ("ext", "btrfs", "f2fs", "zfs")
_SAME = {"ext2": "ext", "ext3": "ext", "ext4": "ext", "nfs4": "nfs", "smb3": "cifs", "smbfs": "cifs"}


class FileSystem(NamedTuple):
    """mounted: on top of another one, not the system's own. kind: such as ext, nfs. id: empty where none lasts."""

    mounted: bool
    kind: str
    id: str


def of(root: int, path: str) -> FileSystem:
    """The file system that the open folder root, which path leads to, lies on. Raises OSError."""
    point, kind = _mount_of(os.path.realpath(path))
    number = os.fstatvfs(root).f_fsid if kind in _KEEPS_ID else 0
    return FileSystem(point != "/", kind, f"{number:x}" if number else "")


def differs(before: FileSystem, now: FileSystem) -> str:
    """What is wrong when a place was on `before` and is on `now`, as the end of a sentence; empty when nothing is."""
    if before.mounted and not now.mounted:
        return "lies on the system's own disk, it was on a mounted file system: is it mounted?"
    if before.kind and now.kind and before.kind != now.kind:
        return f"lies on another file system than before ({before.kind} then, {now.kind} now)"
    if before.id and now.id and before.id != now.id:
        return "lies on another file system than before: is another disk mounted there?"
    return ""


def load(path: Path) -> Optional[FileSystem]:
    """What save() wrote; None when it is not there, or from a version that wrote nothing."""
    try:
        found = json.loads(path.read_bytes())
        return FileSystem(bool(found["mounted"]), str(found["kind"]), str(found["id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(path: Path, found: FileSystem) -> None:
    """Remembers it, in one step."""
    files.make_folder(path.parent)
    files.replace(path, json.dumps(found._asdict()).encode() + b"\n")


def _mount_of(path: str) -> tuple:
    """(mount point, kind) of what is mounted over path; of several at one point the last is on top."""
    best = ("/", "")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _dash, after = line.partition(" - ")
                point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), before.split(" ")[4])
                inside = point == "/" or path == point or path.startswith(point + "/")
                if inside and len(point) >= len(best[0]):
                    kind = after.split(" ")[0]
                    best = (point, _SAME.get(kind, kind))
    except OSError:
        pass
    return best
