"""The folders of a restore: entered by single names from one descriptor, so that nothing leads out of them.

Here live the trail of open folders that follows the archive's walk, and what waits for a folder's content:
hard links, taking away what does not belong there (--exact), and the folder's own metadata, put on when the walk
has left it. Nothing here ever opens a path with a slash in it or follows a link; a folder that was replaced
under our hands is recognised by its device and inode number.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import Any, Callable, Deque, List, Optional, Set, Tuple

from ..image import dumpdir
from .linux_write import (
    OPEN_FOLDER,
    Attributes,
    drop_inherited_acl,
    has_default_acl,
    only_these_xattrs,
    put_on_descriptor,
    remove_tree,
)
from .writers import How, put_in_place, temporary_name, what

_OPEN = 300  # descriptors kept open on the trail
_REOPENED = 100  # of those above a folder that is opened again
_WAITING = 200  # and by folders whose content is still being written


class Blocked(Exception):
    """A folder cannot be entered; the text says why. skipped: it is so on purpose, no failure."""

    def __init__(self, why: str, skipped: bool = False):
        super().__init__(why)
        self.skipped = skipped


class Folder:
    """A folder on the trail. path: as in the archive, b"" the root; fd: -1 while it is closed.

    made: by this restore. attributes: what to put on in the end, None: leave it as it is. inherits: it has a
    default ACL. owner: (uid, gid) when it was opened.
    """

    __slots__ = ("parent", "name", "path", "fd", "identity", "owner", "made", "inherits", "attributes", "names", "last")

    def __init__(self, parent: "Optional[Folder]", name: bytes, path: bytes, fd: int, made: bool):
        status = os.fstat(fd)
        self.parent = parent
        self.name = name
        self.path = path
        self.fd = fd
        self.identity = status.st_dev, status.st_ino
        self.owner = status.st_uid, status.st_gid
        self.made = made
        self.inherits = False
        self.attributes: Optional[Attributes] = None
        self.names: Optional[bytes] = None
        self.last = -1  # the last batch with files of this folder


class Tree:
    """The trail from the root of a restore to where the archive is now.

    problem(path, failure, message) tells of what could not be done. wait(number) waits for a batch, oldest()
    is the oldest that is not done: what stands in the queue is done when all before it is.
    """

    def __init__(self, root: int, made: bool, how: How, lost: Set[str], problem: Callable[[bytes, bool, str], None],
                 oldest: Callable[[], int], wait: Callable[[int], None]):  # fmt: skip
        self.how = how
        self.lost = lost
        self._problem = problem
        self._oldest = oldest
        self._wait = wait
        self.root = Folder(None, b"", b"", root, made)
        self.root.inherits = not made and has_default_acl(root)
        self.current = self.root
        self._trail = [self.root]
        self._queue: Deque[Tuple[int, Callable[..., None], Tuple[Any, ...]]] = deque()
        self.batch = -1  # the newest batch, sent or not
        self.folders = 0
        self.links = 0
        self.devices = {self.root.identity[0]: os.dup(root)}  # one descriptor of each file system, to be synced
        self._target: Optional[Tuple[bytes, int]] = None  # the folder of the last hard link's first name
        self.complete = True  # False: the archive was cut, so nothing is taken away any more

    # ---- going about

    def enter(self, path: bytes) -> Folder:
        """The folder of a path, made when missing, as the current one. Raises Blocked, OSError."""
        current = self.current
        if current.path == path:
            return current
        while not _above(current.path, path):
            self._leave()
            current = self.current
        rest = path[len(current.path) :].lstrip(b"/")
        for name in rest.split(b"/") if rest else ():
            current = self._down(current, name, None)
        return current

    def folder(self, path: bytes, attributes: Attributes, names: Optional[bytes], touch: bool) -> None:
        """A folder member: the folder becomes the current one. touch: False for one that only leads to what was
        asked for: it is made when missing and else left alone."""
        if path == b"" or path == self.current.path:
            folder = self.enter(path)
        else:
            above, _slash, name = path.rpartition(b"/")
            folder = self._down(self.enter(above), name, attributes)
        if folder.made or (touch and self.how.existing == "overwrite"):
            folder.attributes = attributes
        if touch and self.how.exact:
            folder.names = names

    def _down(self, above: Folder, name: bytes, attributes: Optional[Attributes]) -> Folder:
        place = self.open(above)
        try:
            os.mkdir(name, 0o755 if attributes is None else 0o700, dir_fd=place)
            made = True
        except FileExistsError:
            made = False
        try:
            fd = os.open(name, OPEN_FOLDER, dir_fd=place)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            if attributes is None:
                raise Blocked("something that is no folder is in the way") from None
            if self.how.existing != "overwrite":
                kept = self.how.existing == "keep"
                raise Blocked("kept: it exists and is no folder" if kept else "exists and is no folder", kept) from None
            os.unlink(name, dir_fd=place)
            os.mkdir(name, 0o700, dir_fd=place)
            fd, made = os.open(name, OPEN_FOLDER, dir_fd=place), True
        path = above.path + b"/" + name if above.path else name
        folder = Folder(above, name, path, fd, made)
        if made and above.inherits:
            drop_inherited_acl(fd, True)
            os.chmod(fd, 0o755 if attributes is None else 0o700)
        elif not made:
            folder.inherits = has_default_acl(fd)
            if folder.identity[0] not in self.devices:
                self.devices[folder.identity[0]] = os.dup(fd)
        self._trail.append(folder)
        self.current = folder
        if len(self._trail) > _OPEN:
            self._close_some()
        return folder

    def open(self, folder: Folder) -> int:
        """The descriptor of a folder, opened again name by name when it was closed. Raises OSError."""
        if folder.fd >= 0:
            return folder.fd
        closed: List[Folder] = []
        at: Optional[Folder] = folder
        while at is not None and at.fd < 0:
            closed.append(at)
            at = at.parent
        assert at is not None  # the root is never closed
        passing = -1  # one of many above, needed only to come further
        while closed:
            below = closed.pop()
            try:
                fd = os.open(below.name, OPEN_FOLDER, dir_fd=at.fd if passing < 0 else passing)
            finally:
                if passing >= 0:
                    os.close(passing)
                    passing = -1
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != below.identity:
                os.close(fd)
                raise OSError(errno.EBUSY, "a folder was replaced while it was restored")
            if len(closed) < _REOPENED:  # the walk is on its way up: these are needed next
                below.fd = fd
            else:
                passing = fd
            at = below
        return folder.fd

    def _close_some(self) -> None:
        """Closes the upper half of the open trail; folders with files on their way stay open."""
        opened = [folder for folder in self._trail[1:-1] if folder.fd >= 0]
        if len(opened) < _OPEN:
            return
        oldest = self._oldest()
        for folder in opened[: _OPEN // 2]:
            if folder.last < oldest and folder.last != self.batch:
                os.close(folder.fd)
                folder.fd = -1

    # ---- what waits

    def _leave(self) -> None:
        folder = self._trail.pop()
        self.current = self._trail[-1]
        self._later(self._finish, folder)

    def link(self, folder: Folder, name: bytes, target: bytes, mtime_ns: int) -> None:
        """A hard link, made when all before it is written."""
        self._later(self._link, folder, name, target, mtime_ns)

    def _later(self, call: Callable[..., None], *arguments: Any) -> None:
        self._queue.append((self.batch, call, arguments))
        self.settle()
        if len(self._queue) > _WAITING:
            self._wait(self._queue[len(self._queue) // 2][0])
            self.settle()

    def settle(self) -> None:
        """Does what waits for nothing any more."""
        queue = self._queue
        if queue:
            oldest = self._oldest()
            while queue and queue[0][0] < oldest:
                _batch, call, arguments = queue.popleft()
                call(*arguments)

    def finish(self) -> None:
        """Leaves all folders, the root too. All batches must be done."""
        while len(self._trail) > 1:
            self._leave()
        self._later(self._finish, self.root)
        self.settle()
        if self._target:
            os.close(self._target[1])
            self._target = None

    def close(self) -> None:
        """Closes what is still open."""
        waiting = [item for _batch, _call, arguments in self._queue for item in arguments if isinstance(item, Folder)]
        for folder in [*self._trail, *waiting]:
            if folder.fd >= 0:
                os.close(folder.fd)
                folder.fd = -1
        for fd in self.devices.values():
            os.close(fd)
        self.devices = {}

    def _finish(self, folder: Folder) -> None:
        """Takes away what does not belong into a folder, then puts its metadata on and closes it."""
        try:
            if folder.names is not None and self.complete:
                self._remove_others(folder)
            if folder.made or folder.attributes is not None:
                self.folders += 1
            want = folder.attributes
            if want is not None:
                fd = self.open(folder)
                if not folder.made:
                    only_these_xattrs(fd, want.xattrs)
                put_on_descriptor(fd, folder.owner, want, want.mode, self.how.rights, self.lost, self.how.now)
        except OSError as error:
            self._problem(folder.path, True, "its metadata could not be put on: " + what(error))
        finally:
            if folder.fd >= 0:
                os.close(folder.fd)
                folder.fd = -1

    def _remove_others(self, folder: Folder) -> None:
        fd = self.open(folder)
        belongs = {name for name, _letter in dumpdir.parse(folder.names or b"\0")}
        for text in os.listdir(fd):
            name = os.fsencode(text)
            if name not in belongs:
                try:
                    remove_tree(fd, name)
                except OSError as error:
                    path = folder.path + b"/" + name if folder.path else name
                    self._problem(path, True, "does not belong there and cannot be removed: " + what(error))

    def _link(self, folder: Folder, name: bytes, target: bytes, mtime_ns: int) -> None:
        path = folder.path + b"/" + name if folder.path else name
        try:
            above, _slash, first = target.rpartition(b"/")
            source = self._folder_of_target(above)
            status = os.stat(first, dir_fd=source, follow_symlinks=False)
            # a first name that was not restored, but was there before, is another file: its time tells
            if stat.S_ISDIR(status.st_mode) or abs(status.st_mtime_ns - mtime_ns) >= 2 * 10**9:
                raise OSError(errno.ENOENT, "its first name %r was not restored" % os.fsdecode(target))
            self._put_link(self.open(folder), name, source, first, status, path)
        except FileNotFoundError as error:
            first_name = "its first name was not restored" if error.errno == errno.ENOENT else what(error)
            self._problem(path, True, "not linked: " + first_name)
        except OSError as error:
            self._problem(path, True, "not linked: " + what(error))

    def _put_link(
        self, place: int, name: bytes, source: int, first: bytes, status: os.stat_result, path: bytes
    ) -> None:
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=place, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(name, dir_fd=place, follow_symlinks=False)
            if (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
                if self.how.existing != "overwrite":
                    kept = self.how.existing == "keep"
                    self._problem(path, not kept, "kept: it exists" if kept else "exists: not restored")
                    return
                temporary = temporary_name()
                os.link(first, temporary, src_dir_fd=source, dst_dir_fd=place, follow_symlinks=False)
                try:
                    put_in_place(place, temporary, name, self.how.exact)
                except BaseException:
                    os.unlink(temporary, dir_fd=place)
                    raise
        self.links += 1

    def _folder_of_target(self, path: bytes) -> int:
        """A descriptor of the folder of a hard link's first name, walked from the root; kept for the next link."""
        if self._target and self._target[0] == path:
            return self._target[1]
        fd = os.dup(self.root.fd)
        for name in path.split(b"/") if path else ():
            try:
                below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        if self._target:
            os.close(self._target[1])
        self._target = (path, fd)
        return fd


def _above(folder: bytes, path: bytes) -> bool:
    """Whether path is folder or lies below it."""
    return not folder or path == folder or path.startswith(folder + b"/")
