"""Linux: how files and folders are opened and what is read of them besides their content.

Here live the few functions that another operating system would need of its own for dumping; writing metadata
lives in linux_write. No link is ever followed but the source's own path.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from typing import Dict, List, Optional, Sequence, Tuple, Union

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_NOATIME = getattr(os, "O_NOATIME", 0)
# Only root may always leave access times alone; others may on their own files.
FILE_FLAGS = _FILE | (_NOATIME if os.geteuid() == 0 else 0)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SEGMENTS = 60000  # of data in a file with holes; the format has at most 65,536
NO_XATTRS: Dict[bytes, bytes] = {}
# What names an entry that is not there any more, or is another kind of thing by now.
GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV))


# What the kernel says of a block device that is its own, whatever number it has: of LVM and dm-crypt, of a file that is
# mounted, of a disk or the disk of a partition.
_BLOCK = "/sys/dev/block/%d:%d/"
_OF_DISK = ("wwid", "serial", "device/wwid", "device/serial")
_DISK = ("dm/uuid", "loop/backing_file", *_OF_DISK, *("../" + one for one in _OF_DISK))


def raise_limits() -> None:
    """As many open files as this process may have: a descriptor for each level of a deep tree."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_root(path: bytes) -> int:
    """A descriptor of a source's folder; its path may be a link, the administrator named it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_folder(name: bytes, parent: int) -> int:
    """A descriptor of a sub-folder, never through a link."""
    return os.open(name, _FOLDER, dir_fd=parent)


def open_file(name: bytes) -> int:
    """A descriptor for reading a file of the current folder, without touching its access time where allowed."""
    try:
        return os.open(name, _FILE | _NOATIME)
    except PermissionError:
        return os.open(name, _FILE)


def read_names(exact: bool, most: Optional[int] = None) -> Tuple[List[bytes], List[bytes], List[bytes], List[bytes]]:
    """(regular files, other entries, folders, sockets) of the current folder; regular files and others mixed when
    exact is false. Raises OverflowError for a folder of `most` entries or more."""
    files: List[bytes] = []
    others: List[bytes] = [] if exact else files
    folders: List[bytes] = []
    sockets: List[bytes] = []
    with os.scandir(b".") as entries:
        for entry in islice(entries, most):
            if entry.is_file(follow_symlinks=False):
                files.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_symlink() or not _is_socket(entry):
                others.append(entry.name)
            else:
                sockets.append(entry.name)
    if most is not None and len(files) + len(folders) >= most:
        raise OverflowError
    return files, others, folders, sockets


def _is_socket(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return False


def read_xattrs(target: Union[int, bytes]) -> Dict[bytes, bytes]:
    """Extended attributes of a descriptor or of a name of the current folder (not of what a link points to):
    name -> value, ACLs and labels among them. What cannot be read is left out."""
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError:
        return NO_XATTRS
    if not names:
        return NO_XATTRS
    found = {}
    for name in names:
        try:
            found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
        except OSError:
            continue
    return found


def data_segments(fd: int, size: int) -> Optional[List[Tuple[int, int]]]:
    """(offset, length) of each run of data in a file with holes, None when it has none or cannot tell."""
    segments: List[Tuple[int, int]] = []
    place = 0
    try:
        while place < size:
            try:
                start = os.lseek(fd, place, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    break
                return None
            if start >= size:
                break
            place = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            if place <= start:
                return None  # it is being cut under our hands
            segments.append((start, place - start))
    except OSError:
        return None
    finally:
        os.lseek(fd, 0, os.SEEK_SET)
    if segments == [(0, size)]:
        return None
    return _at_most(segments, SEGMENTS)


def _at_most(segments: List[Tuple[int, int]], most: int) -> List[Tuple[int, int]]:
    """The segments, the shortest holes between them taken for data until there are at most so many."""
    hole = 4096
    while len(segments) > most:
        joined = [segments[0]]
        for start, length in segments[1:]:
            before, reach = joined[-1]
            if start - before - reach <= hole:
                joined[-1] = (before, start + length - before)
            else:
                joined.append((start, length))
        segments, hole = joined, hole * 2
    return segments


def device(status: os.stat_result) -> Tuple[int, int]:
    """(major, minor) of a device."""
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def what_was_refused(error: OSError) -> str:
    """An error of the system in a few words, without the name."""
    return (error.strerror or "error %s" % error.errno).lower()


def own_group() -> None:
    """Makes this process the leader of a group of its own, so that scripts can be ended with it."""
    try:
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
    except OSError:
        pass  # a session's leader already is one


def kinds(modes: Sequence[int]) -> str:
    """The kind letter of each st_mode: f d l c b p, `s` for a socket."""
    return "".join(KIND.get(mode & 0o170000, "s") for mode in modes)


KIND = {
    stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p",
}  # fmt: skip


def disk(device: int) -> bytes:
    """What tells a block device from its snapshot or its copy, which have the same file system with the same id; empty
    where nothing does, as for file systems that lie on none."""
    found = []
    for name in _DISK:
        try:
            with open(_BLOCK % (os.major(device), os.minor(device)) + name, "rb") as file:
                found.append(file.read(4096).strip())
        except OSError:
            continue
    return b" ".join(found)
