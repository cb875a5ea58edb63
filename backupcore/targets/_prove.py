"""What every place is asked to show with a small file of its own, for probe() of several drivers.

Not here: what is special about one kind of place.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Iterator

from backupcore.hookspecs import Finding, TargetContext, TargetError

MARK = ".stowage"
INCOMING = MARK + "/incoming"


def proven(target: Any, context: TargetContext, place: str) -> Iterator[Finding]:
    """Write, read, ranges, list, overwrite protection and delete; what was written is gone at the end."""
    content = secrets.token_bytes(4096)
    name = f"{MARK}/probe-{context.server_id}-{secrets.token_hex(4)}"
    context.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = context.folder / f"probe-{secrets.token_hex(4)}"
    try:
        path.write_bytes(content)
        yield from _with(target, name, path, content, place)
    except TargetError as error:
        yield Finding(False, "write", error.message, error.hint)
    finally:
        path.unlink(missing_ok=True)


def _with(target: Any, name: str, path: Path, content: bytes, place: str) -> Iterator[Finding]:
    target.put(name, path, if_absent=True)
    try:
        yield Finding(True, "write", f"{place} takes files")
        right = b"".join(target.read(name)) == content and b"".join(target.read(name, 1000, 100)) == content[1000:1100]
        yield Finding(right, "read", "files and ranges come back" if right else "other bytes came back")
        listed = [found.name for found in target.list(name)] == [name]
        yield Finding(listed, "list", "files are listed" if listed else "a file that was written is not listed")
        try:
            target.put(name, path, if_absent=True)
            yield Finding(False, "overwrite", "a file that exists was overwritten")
        except TargetError:
            firm = target.capabilities.overwrite_protection
            kind = "by the place itself" if firm else "only by a look before"
            yield Finding(True, "overwrite", f"files are protected {kind}", warning=not firm)
    finally:
        target.delete(name)
    gone = target.stat(name) is None
    yield Finding(gone, "delete", "files are removed" if gone else "a removed file is still there")
