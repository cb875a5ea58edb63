"""The agent's byte code, kept beside agent.pyz by its first run as root: compiling is most of what a start takes.

Here live using it and writing it. It is a copy of what agent.pyz says and nothing more: it is used only when root
alone can write it and it was made of this very agent.pyz (by SHA-256) by this very Python; else, and when it cannot be
written, the agent starts from its sources as it always can. This file is itself compiled at each start: it is short.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import sys
from typing import Any, Dict, Optional, Tuple

_MAGIC = b"Stowage byte code 1\n"
_LIMIT = 16 << 20


def _only_root(status: os.stat_result) -> bool:
    return status.st_uid == 0 and not status.st_mode & 0o022


def _head(archive: str) -> Tuple[bytes, bytes]:
    """(agent.pyz, what the file begins with: of which agent and which Python it is)."""
    import _frozen_importlib_external as external  # as zipimport does

    with open(archive, "rb") as file:
        data = file.read()
    python = b"%s %d %s" % (external.MAGIC_NUMBER, sys.flags.optimize, sys.version.encode("utf-8"))
    return data, _MAGIC + hashlib.sha256(data).digest() + hashlib.sha256(python).digest()


class Code:
    """Finds and loads modules out of the byte code kept; codes: name -> (is a package, code by marshal)."""

    def __init__(self, archive: str, codes: Dict[str, Tuple[bool, bytes]]):
        self._archive, self._codes = archive, codes

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
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

    def create_module(self, _spec: Any) -> None:
        """As of any loader: an ordinary module."""

    def exec_module(self, module: Any) -> None:
        """As of any loader."""
        exec(marshal.loads(self._codes[module.__name__][1]), module.__dict__)

    def get_source(self, name: str) -> Optional[str]:
        """For the lines of a traceback."""
        from zipimport import zipimporter

        return zipimporter(os.path.join(self._archive, *name.split(".")[:-1])).get_source(name)


def use(archive: str) -> bool:
    """From here on modules come from the byte code kept; False when there is none that may be used."""
    try:
        fd = os.open(archive + ".code", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not (stat.S_ISREG(status.st_mode) and _only_root(status) and status.st_size <= _LIMIT):
                return False
            if not _only_root(os.stat(os.path.dirname(archive))):
                return False
            kept = file.read()
        head = _head(archive)[1]
        start = len(head) + 32
        if kept[: len(head)] != head or kept[len(head) : start] != hashlib.sha256(kept[start:]).digest():
            return False
        sys.meta_path.insert(0, Code(archive, marshal.loads(kept[start:])))
    except (OSError, ValueError, EOFError, TypeError):
        return False
    return True


def keep(archive: str) -> None:
    """Writes the byte code, when this is root and only root writes there. Nothing depends on it."""
    new = archive + ".code.new"
    try:
        if os.geteuid() != 0 or not all(map(_only_root, map(os.stat, (archive, os.path.dirname(archive))))):
            return
        data, head = _head(archive)
        body = marshal.dumps(_compiled(archive, data))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(head + hashlib.sha256(body).digest() + body)  # not synced: what a crash left fails the digest
        os.replace(new, archive + ".code")
    except (OSError, ValueError, SyntaxError):
        return


def _compiled(archive: str, data: bytes) -> Dict[str, Tuple[bool, bytes]]:
    import io
    import zipfile

    codes = {}
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        for path in files.namelist():
            words = path[: -len(".py")].split("/")
            package = words[-1] == "__init__"
            if path.endswith(".py") and words != ["__main__"]:
                code = compile(files.read(path), os.path.join(archive, path), "exec", dont_inherit=True)
                codes[".".join(words[:-1] if package else words)] = (package, marshal.dumps(code))
    return codes
