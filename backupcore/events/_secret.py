"""Secrets of event drivers: the first line of a file that nobody else reads, asked for when something is sent.

They are never options: these stand in stowage.yml, in answers and in messages. No message here says what a file holds.
"""

from __future__ import annotations

import os
import stat

from ..hookspecs import EventError

MOST = 4096  # bytes


def absolute(value: str) -> str:
    """An absolute path, or ''. Raises ValueError."""
    if value and (not value.startswith("/") or "\0" in value):
        raise ValueError("is no absolute path")
    return value


def first_line(path: str, what: str) -> str:
    """The first line of the file. what: is in it, for people. Raises EventError."""
    hint = f"make it, 0600, with the {what} in its first line"
    try:
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise EventError(f"{path} can be read by others", f"chmod 600 {path}")
            line = file.read(MOST).split(b"\n", 1)[0].strip()
    except OSError as error:
        raise EventError(f"{path}: {error.strerror}", hint) from None
    try:
        found = line.decode("utf-8")
    except UnicodeDecodeError:
        found = ""
    if not found or not found.isprintable():
        raise EventError(f"{path}: there is no {what} in its first line", hint)
    return found
