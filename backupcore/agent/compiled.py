"""Making and writing the byte code that is kept beside agent.pyz; what it is good for stands in bytecode."""

from __future__ import annotations

import io
import marshal
import os
import time
import zipfile
from typing import Dict, Tuple

from . import bytecode

_YOUNG = 1_000_000_000  # ns: what changed this shortly ago may change again without a trace in its times


def write(archive: str) -> None:
    """As bytecode.keep()."""
    new = archive + ".code.new"
    try:
        folder = os.path.dirname(archive)
        if os.geteuid() != 0 or not all(map(bytecode.only_root, map(os.stat, (archive, folder)))):
            return
        with open(archive, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read()
        old = time.time_ns() - status.st_ctime_ns > _YOUNG
        seen = bytecode.seen(status) if old else bytes(len(bytecode.seen(status)))
        body = marshal.dumps(_compiled(archive, data))
        head = bytecode.MAGIC + bytecode.digest(data) + bytecode.python() + seen + bytecode.check(body)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(head + body)  # not synced: what a crash left fails the check
        os.replace(new, archive + ".code")
    except (OSError, ValueError, SyntaxError):
        return


def _compiled(archive: str, data: bytes) -> Dict[str, Tuple[bool, bytes]]:
    codes = {}
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        for path in files.namelist():
            words = path[: -len(".py")].split("/")
            package = words[-1] == "__init__"
            if path.endswith(".py") and words != ["__main__"]:
                code = compile(files.read(path), os.path.join(archive, path), "exec", dont_inherit=True)
                codes[".".join(words[:-1] if package else words)] = (package, marshal.dumps(code))
    return codes
