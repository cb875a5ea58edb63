"""Durable files: written under a temporary name, synced, renamed, their folder synced.

Here live the few steps every room uses to put a file or folder in place for good; nothing here
knows what the bytes mean. Files are made 0600, folders 0700.
"""

from __future__ import annotations

import os
import re
from typing import List, Tuple, Union

CATALOG = "catalog.sqlite"  # below the state folder: whose it is, the state is
_KILLED = re.compile(r"\.([0-9]{1,10})-[0-9a-f]{8}\.tmp\Z")
PathLike = Union[str, "os.PathLike[str]"]


def make_folder(path: PathLike) -> None:
    """Makes path and its parents, 0700; existing folders stay as they are."""
    os.makedirs(path, mode=0o700, exist_ok=True)


def make_lasting(path: PathLike) -> None:
    """The same for good: what is put there is not lost with the folder when the power goes."""
    missing, path = [], os.path.abspath(path)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        make_folder(folder)
        sync_folder(os.path.dirname(folder))


def sync_folder(path: PathLike) -> None:
    """fsync of a folder: what was made or renamed in it stays."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_up(folder: PathLike, top: PathLike) -> None:
    """fsync of folder and of those above it, up to top: that there is such a folder stays, too."""
    folder, top = os.path.abspath(folder), os.path.abspath(top)
    sync_folder(folder)
    while folder != top and folder.startswith(top + os.sep):
        folder = os.path.dirname(folder)
        sync_folder(folder)


def create(path: PathLike) -> int:
    """A descriptor for writing a new file, 0600; raises FileExistsError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_all(fd: int, data: Union[bytes, memoryview]) -> None:
    """Writes all of data to fd."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_synced(path: PathLike, data: bytes) -> None:
    """A new file with data, synced; raises FileExistsError. Its folder is not synced."""
    fd = create(path)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: PathLike, data: bytes, mode: int = 0o600) -> None:
    """Puts data at path at once or not at all, for good: temporary name, fsync, rename, fsync of the folder."""
    temporary = temporary_of(path)
    try:
        write_synced(temporary, data)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise
    sync_folder(os.path.dirname(os.path.abspath(path)))


def temporary_of(path: PathLike) -> str:
    """A name beside path for what will be renamed to it; it tells whose it is, for clear_killed()."""
    return "%s.%d-%s.tmp" % (os.fspath(path), os.getpid(), os.urandom(4).hex())


def clear_killed(folder: PathLike, beginning: str = "") -> List[str]:
    """Removes the temporary files in folder whose makers do not live any more, those whose names begin so; which.

    Never an error: what cannot be removed or seen is left. A number that another process has got meanwhile keeps its
    file till the next time.
    """
    removed = []
    try:
        found = [(entry.path, _KILLED.search(entry.name)) for entry in os.scandir(folder)]
    except OSError:
        return []
    for path, named in found:
        if named and os.path.basename(path).startswith(beginning) and not _lives(int(named.group(1))):
            try:
                os.unlink(path)
                removed.append(path)
            except OSError:
                continue
    return removed


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # another user's
    return True


def owner_of_state(state: PathLike) -> Tuple[int, int]:
    """Whose the files of a state folder are, (uid, gid): the night may run as another user than root, who restores. The
    folder's own, or where that is root's, as the role makes it, the catalog's. Raises OSError."""
    found = os.stat(state)
    if found.st_uid == 0:
        try:
            found = os.stat(os.path.join(state, CATALOG))
        except FileNotFoundError:
            pass
    return found.st_uid, found.st_gid
