"""The agent's byte code, kept beside agent.pyz by its first run as root: compiling is most of what a start takes.

Here lives using it; writing it lives in compiled. It is a copy of what agent.pyz says and nothing more: it is used only
when root alone can write it and it was made of this very agent.pyz (by SHA-256; not read again while its inode, size
and times are those it had) by this very Python; else, and when it cannot be written, the agent starts from its sources
as it always can. This file is itself compiled at each start: it is short, and imports little.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
import zlib

MAGIC = b"Stowage byte code 2\n"
LIMIT = 16 << 20
_DIGEST, _PYTHON, _SEEN, _CHECK = 32, 256, 32, 4


def only_root(status: os.stat_result) -> bool:
    """Whether nobody else can write there."""
    return status.st_uid == 0 and not status.st_mode & 0o022


def seen(status: os.stat_result) -> bytes:
    """What of a file changes when it does."""
    numbers = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return b"".join((number & (1 << 64) - 1).to_bytes(8, "little") for number in numbers)


def digest(data: bytes) -> bytes:
    """SHA-256."""
    from .hashes import own

    found: bytes = own(data).digest()
    return found


def python() -> bytes:
    """Which Python this is."""
    import _frozen_importlib_external as external  # as zipimport does

    found = b"%s %d %s" % (external.MAGIC_NUMBER, sys.flags.optimize, sys.version.encode("utf-8"))
    return found[:_PYTHON].ljust(_PYTHON)


def check(body: bytes) -> bytes:
    """Tells a file that a crash left: root alone writes it, nobody forges it."""
    return zlib.crc32(body).to_bytes(_CHECK, "little")


class Code:
    """Finds and loads modules out of the byte code kept; codes: name -> (is a package, code by marshal)."""

    def __init__(self, archive: str, codes: dict[str, tuple[bool, bytes]]):
        self._archive, self._codes = archive, codes

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> object:
        """As of any finder."""
        found = self._codes.get(name)
        if found is None:
            return None
        base = os.path.join(self._archive, *name.split("."))
        origin = base + ("/__init__.py" if found[0] else ".py")
        spec = type(sys.__spec__)(name, self, origin=origin, is_package=found[0])
        spec.has_location = True
        if found[0]:
            spec.submodule_search_locations.append(base)
        return spec

    def create_module(self, _spec: object) -> None:
        """As of any loader: an ordinary module."""

    def exec_module(self, module: object) -> None:
        """As of any loader."""
        exec(marshal.loads(self._codes[module.__name__][1]), module.__dict__)

    def get_source(self, name: str) -> str | None:
        """For the lines of a traceback."""
        from zipimport import zipimporter

        return zipimporter(os.path.join(self._archive, *name.split(".")[:-1])).get_source(name)


def use(archive: str) -> bool:
    """From here on modules come from the byte code kept; False when there is none that may be used."""
    try:
        fd = os.open(archive + ".code", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", 0) as file:
            status = os.fstat(fd)
            if not (stat.S_ISREG(status.st_mode) and only_root(status) and status.st_size <= LIMIT):
                return False
            if not only_root(os.stat(os.path.dirname(archive))):
                return False
            kept = file.read()
        place = len(MAGIC) + _DIGEST
        of, by = kept[:place], kept[place : place + _PYTHON]
        at = place + _PYTHON + _SEEN
        body = memoryview(kept)[at + _CHECK :]
        if not of.startswith(MAGIC) or by != python() or kept[at : at + _CHECK] != check(body):
            return False
        if kept[at - _SEEN : at] != seen(os.stat(archive)):
            with open(archive, "rb") as file:
                if of != MAGIC + digest(file.read()):
                    return False
        sys.meta_path.insert(0, Code(archive, marshal.loads(body)))
    except (OSError, ValueError, EOFError, TypeError):
        return False
    return True


def keep(archive: str) -> None:
    """Writes the byte code, when this is root and only root writes there. Nothing depends on it."""
    from .compiled import write

    write(archive)
