"""The survey: what is on this machine that a backup might want, for `check` to say what no source covers.

Here live looking for mounted file systems, databases that run, and home folders; judging lives in app/coverage.
Nothing here opens a file of a user or waits for a network.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional, Set, Tuple

# File systems that hold nothing of their own, or somebody else's.
_NOT_HERE = frozenset((
    "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "cgroup", "cgroup2", "pstore", "securityfs", "debugfs",
    "tracefs", "configfs", "bpf", "mqueue", "hugetlbfs", "fusectl", "autofs", "binfmt_misc", "rpc_pipefs", "nsfs",
    "efivarfs", "selinuxfs", "squashfs", "iso9660", "udf", "erofs", "nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph",
    "overlay",
))  # fmt: skip
_DATABASES = {
    "postgres": ("postgresql", None), "postmaster": ("postgresql", None), "mysqld": ("mysql", "--datadir"),
    "mariadbd": ("mariadb", "--datadir"), "mongod": ("mongodb", "--dbpath"), "redis-server": ("redis", None),
    "valkey-server": ("valkey", None), "slapd": ("openldap", None), "influxd": ("influxdb", None),
    "couchdb": ("couchdb", None), "etcd": ("etcd", "--data-dir"), "clickhouse-serv": ("clickhouse", None),
}  # fmt: skip
_FIXED = {
    "mongodb": "/var/lib/mongodb", "openldap": "/var/lib/ldap", "influxdb": "/var/lib/influxdb",
    "couchdb": "/var/lib/couchdb", "clickhouse": "/var/lib/clickhouse", "mysql": "/var/lib/mysql",
    "mariadb": "/var/lib/mysql", "redis": "/var/lib/redis", "valkey": "/var/lib/valkey",
}  # fmt: skip


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def mounts(table: bytes) -> List[Dict[str, Any]]:
    """path, fstype, used bytes of each local file system in the text of /proc/self/mountinfo, each once."""
    found: List[Dict[str, Any]] = []
    seen: Set[Tuple[bytes, bytes]] = set()
    for line in table.splitlines():
        fields = line.split(b" ")
        try:
            device, root, path, fstype = fields[2], fields[3], fields[4], fields[fields.index(b"-", 6) + 1]
        except (ValueError, IndexError):
            continue
        name = fstype.decode("ascii", "replace")
        path = re.sub(rb"\\([0-7]{3})", lambda match: bytes((int(match.group(1), 8) & 255,)), path)
        if (name in _NOT_HERE or name.startswith("fuse.")) and path != b"/":
            continue
        if (device, root) in seen:
            continue
        seen.add((device, root))
        try:
            if not os.path.isdir(path):
                continue  # a file mounted over a file
            status = os.statvfs(path)
        except OSError:
            continue
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        found.append({"path": _text(path), "fstype": name, "used": used})
    return found


def databases() -> List[Dict[str, str]]:
    """name and data folder of each database that runs."""
    found: Dict[Tuple[str, str], None] = {}
    for process in filter(bytes.isdigit, os.listdir(b"/proc")):
        base = b"/proc/" + process
        known = _DATABASES.get(_read(base + b"/comm").decode("utf-8", "replace").strip())
        if known is None:
            continue
        name, option = known
        arguments = _read(base + b"/cmdline").split(b"\0")
        path = _option(arguments, option) or (_option(arguments, "-D") if name == "postgresql" else None)
        if path is None and name in ("postgresql", "mysql", "mariadb", "redis", "valkey"):
            try:
                path = os.readlink(base + b"/cwd")  # these change into their data folder
            except OSError:
                path = None
            if path == b"/":
                path = None
        shown = _text(path) if path else _FIXED.get(name)
        if shown:
            found[name, shown] = None
    return [{"name": name, "path": path} for name, path in sorted(found)]


def _read(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""


def _option(arguments: List[bytes], option: Optional[str]) -> Optional[bytes]:
    if option is None:
        return None
    word = option.encode("ascii")
    for place, argument in enumerate(arguments):
        if argument == word and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(word + b"="):
            return argument[len(word) + 1 :]
    return None


def homes(passwd: bytes) -> List[Dict[str, str]]:
    """Home folders of people (and root) in the text of /etc/passwd that exist."""
    found: Dict[str, None] = {}
    for line in passwd.splitlines():
        fields = line.split(b":")
        if len(fields) < 7 or not fields[2].isdigit():
            continue
        uid, home, shell = int(fields[2]), fields[5], fields[6]
        if (uid == 0 or 1000 <= uid < 60000) and home not in (b"", b"/") and not shell.endswith((b"nologin", b"false")):
            if os.path.isdir(home):
                found[_text(os.path.normpath(home))] = None
    return [{"path": path} for path in found]


def survey(sources: Dict[str, str]) -> Dict[str, Any]:
    """All of it. sources: name -> path of the declared sources, each looked at."""
    checked = {}
    for name, path in sources.items():
        raw = path.encode("utf-8", "surrogateescape")
        message = ""
        try:
            with os.scandir(raw) as entries:
                next(entries, None)
        except OSError as error:
            message = (error.strerror or "cannot be read").lower()
        checked[name] = {"exists": os.path.lexists(raw), "readable": not message, "message": message}
    return {
        "mounts": mounts(_read_all(b"/proc/self/mountinfo")), "databases": databases(),
        "homes": homes(_read_all(b"/etc/passwd")), "sources": checked,
    }  # fmt: skip


def _read_all(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
