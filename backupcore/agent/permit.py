"""Where a restore may write: the permit that the client's own root gave for it, or the scratch folder.

Here live reading and checking a permit file and making a folder in the scratch folder. A permit is JSON,
`{"schema": 1, "id", "dump", "paths": ["/etc/nginx"], "destination": "/", "expires": epoch seconds}`, in a file
of that id which belongs to the agent's user (root) and is nobody else's to read or write. The restore playbook
writes it with Ansible's own rights on the client and removes it after: the backup server has none of its own.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

from .. import ids
from ..errors import AgentRefused, RequestError
from ..text import escape
from .linux_write import OPEN_FOLDER

LONGEST = 24 * 3600
SCRATCH = "/var/lib/stowage/restore"
PERMITS = "/run/stowage/permit"
_LIMIT = 1 << 20
_KEYS = {"schema", "id", "dump", "paths", "destination", "expires"}


class Permit(NamedTuple):
    """A checked permit. paths: original absolute paths, each with all below it; destination: absolute."""

    id: str
    dump: str
    paths: Tuple[bytes, ...]
    destination: bytes
    expires: float

    def covers(self, path: bytes) -> bool:
        """Whether an original path (absolute) may be written."""
        return any(path == own or own == b"/" or path.startswith(own + b"/") for own in self.paths)

    def leads_to(self, path: bytes) -> bool:
        """Whether an original path is a folder above a covered one: made when missing, else left as it is."""
        return any(path == b"/" or own.startswith(path + b"/") for own in self.paths)


def read_permit(folder: str, permit: str, dump: str, destination: bytes, now: Optional[float] = None) -> Permit:
    """The permit named `permit` in folder, which must be for this dump and this destination and not be old.

    Raises AgentRefused, whose message names the permit and what is wrong with it.
    """
    if not ids.is_name(permit):
        raise AgentRefused("%r cannot name a permit" % permit[:80])
    found = _decode(permit, _read(folder, permit))
    moment = time.time() if now is None else now
    if found.id != permit:
        raise _refused(permit, "is the permit %s under another name" % escape(found.id[:80]))
    if found.dump != dump:
        raise _refused(permit, "is for dump %s, not for %s" % (escape(found.dump[:80]), escape(dump[:80])))
    if found.destination != destination:
        raise _refused(permit, "is for destination %s, not for %s" % (escape(found.destination), escape(destination)))
    if not moment < found.expires:  # not "<=": a NaN never compares
        raise _refused(permit, "has expired")
    if found.expires > moment + LONGEST:
        raise _refused(permit, "is valid for more than 24 hours")
    return found


def _refused(permit: str, why: str) -> AgentRefused:
    return AgentRefused("permit %s %s" % (permit, why), "restore through the playbook stowage.backup.restore")


def _read(folder: str, permit: str) -> bytes:
    """The bytes of a permit file that only root (or the caller's own user) can have written."""
    try:
        above = os.open(folder, OPEN_FOLDER)
    except OSError as error:
        raise _refused(permit, "is not there: %s: %s" % (folder, error.strerror)) from None
    try:
        status = os.fstat(above)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise _refused(permit, "cannot be trusted: %s is not root's alone" % folder)
        try:
            fd = os.open(permit, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=above)
        except OSError as error:
            why = "is a link" if error.errno == errno.ELOOP else "is not there: %s" % error.strerror
            raise _refused(permit, why) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise _refused(permit, "is no plain file")
            if status.st_uid != os.geteuid() or status.st_mode & 0o177:
                raise _refused(permit, "cannot be trusted: it must be root's, with mode 0600")
            if status.st_size > _LIMIT:
                raise _refused(permit, "is too long")
            return os.read(fd, _LIMIT)
        finally:
            os.close(fd)
    finally:
        os.close(above)


def _decode(permit: str, data: bytes) -> Permit:
    try:
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise _refused(permit, "is no JSON") from None
    if not isinstance(value, dict) or set(value) != _KEYS or value["schema"] != 1:
        raise _refused(permit, "has not the keys %s" % ", ".join(sorted(_KEYS)))
    expires, paths = value["expires"], value["paths"]
    texts = [value["id"], value["dump"], value["destination"]]
    if not isinstance(paths, list) or not paths or not all(isinstance(text, str) for text in texts + paths):
        raise _refused(permit, "holds a value of another type")
    if isinstance(expires, bool) or not isinstance(expires, (int, float)):
        raise _refused(permit, "holds a time that is no number")
    try:
        return Permit(texts[0], texts[1], tuple(map(absolute, paths)), absolute(texts[2]), float(expires))
    except (RequestError, OverflowError) as error:
        raise _refused(permit, "holds what is no path: %s" % error) from None


def absolute(text: str) -> bytes:
    """The bytes of an absolute path written the one way: single slashes, no `.` or `..`, none at the end.

    Raises RequestError.
    """
    path = os.fsencode(text)
    if path != b"/" and (path[:1] != b"/" or not components(path[1:])):
        raise RequestError("%s is no absolute path" % escape(path[:200]))
    return path


def components(path: bytes) -> List[bytes]:
    """The names in a relative path; [] when it is none, or holds an empty name, `.`, `..` or a NUL."""
    names = path.split(b"/")
    return [] if b"\0" in path or any(name in (b"", b".", b"..") for name in names) else names


def open_scratch(config: Mapping[str, Any], name: str) -> Tuple[int, bytes]:
    """(descriptor, path) of the folder `name` in the scratch folder, 0700, made when missing.

    Both must be real folders of the agent's user and nobody else's. Raises RequestError, AgentRefused.
    """
    ids.check_name(name, "folder")
    scratch = os.path.abspath(str(config.get("scratch") or SCRATCH))
    try:
        os.makedirs(os.path.dirname(scratch), mode=0o755, exist_ok=True)
        fd = _own_folder(None, scratch)
    except OSError as error:
        raise AgentRefused("the scratch folder %s cannot be used: %s" % (scratch, error.strerror)) from None
    path = os.path.join(scratch, name)
    try:
        return _own_folder(fd, name), os.fsencode(path)
    except OSError as error:
        raise AgentRefused("the scratch folder %s cannot be used: %s" % (path, error.strerror)) from None
    finally:
        os.close(fd)


def _own_folder(above: Optional[int], name: str) -> int:
    """A descriptor of a folder that is this user's alone, made when missing. Raises OSError."""
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        pass
    fd = os.open(name, OPEN_FOLDER, dir_fd=above)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(fd)
        raise OSError(errno.EPERM, "it must be root's alone (0700)")
    return fd


def open_destination(path: bytes) -> int:
    """A descriptor of an absolute folder, made 0755 where missing; refused when any part of it is a link.

    Raises AgentRefused.
    """
    fd = os.open(b"/", OPEN_FOLDER)
    done = b""
    for name in components(path[1:]) if path != b"/" else []:
        done += b"/" + name
        try:
            try:
                below = os.open(name, OPEN_FOLDER, dir_fd=fd)
            except FileNotFoundError:
                os.mkdir(name, 0o755, dir_fd=fd)
                below = os.open(name, OPEN_FOLDER, dir_fd=fd)
        except OSError as error:
            raise not_a_folder(done, error) from None
        finally:
            os.close(fd)
        fd = below
    return fd


def not_a_folder(path: bytes, error: OSError) -> AgentRefused:
    """The error for a folder above the restored paths that cannot be used."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return AgentRefused(
            "%s is a link or no folder on this client: a restore follows no links" % escape(path),
            "restore to another folder, or without --in-place",
        )
    return AgentRefused("%s cannot be used: %s" % (escape(path), error.strerror))
