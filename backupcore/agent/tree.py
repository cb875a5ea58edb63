"""The client half of the source `tree`: the plan of its walk, and the scripts before and after it.

Here live the options as agent.json has them, checked once more, and the running of scripts; the server half
is sources/tree.py, the walk is walk.py.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Union

from . import linux

_WORDS = {"path", "include", "exclude", "one_file_system", "before", "after"}
_SAID = 2000  # of what a failing script said, this much of its end is told


def plan(options: Dict[str, Any]) -> Dict[str, Any]:
    """The tree to walk. Raises ValueError, one line."""
    unknown = set(options) - _WORDS
    if unknown:
        raise ValueError("unknown option %s" % min(unknown))
    path = options.get("path")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ValueError("path is no absolute path")
    patterns = {}
    for word in ("include", "exclude"):
        value = options.get(word) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError("%s is no list of patterns" % word)
        patterns[word] = value
    one_file_system = options.get("one_file_system", True)
    if not isinstance(one_file_system, bool):
        raise ValueError("one_file_system is neither true nor false")
    for word in ("before", "after"):
        _commands(options, word)
    return {"path": path, "one_file_system": one_file_system, **patterns}


def _commands(options: Dict[str, Any], word: str) -> List[Union[str, List[str]]]:
    value = options.get(word)
    if value is None or value == [] or value == "":
        return []
    if isinstance(value, str):
        return [value]
    good = isinstance(value, list) and all(
        isinstance(command, list) and command and all(isinstance(part, str) for part in command) for command in value
    )
    if not good:
        raise ValueError("%s is neither a line for the shell nor a list of commands" % word)
    return value


def _run(options: Dict[str, Any], word: str) -> None:
    if not _commands(options, word):
        return
    import subprocess  # takes its time, and most sources have no scripts

    for command in _commands(options, word):
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise RuntimeError("%s: %r cannot be run: %s" % (word, argv[0], error)) from None
        tail = b""
        try:
            with process.stdout as said:
                for piece in iter(lambda: said.read1(65536), b""):
                    tail = (tail + piece)[-_SAID:]
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            lines = tail.decode("utf-8", "replace").strip().splitlines()
            how = "was ended by signal %d" % -status if status < 0 else "ended with status %d" % status
            raise RuntimeError("the script '%s' %s%s" % (word, how, ": " + lines[-1] if lines else ""))


def identity(options: Dict[str, Any]) -> Optional[str]:
    """Which tree this is, so that a dump that was cut goes on in no other one. None where scripts run around a dump:
    what they make, a snapshot or a file, is made anew for the next attempt."""
    if _commands(options, "before") or _commands(options, "after"):
        return None
    path = os.fsencode(options["path"])
    try:
        found = os.stat(path)
        disk = linux.disk(found.st_dev).decode("ascii", "backslashreplace")
        return "%d.%d.%s" % (os.statvfs(path).f_fsid, found.st_ino, disk)
    except OSError:
        return None


def before(options: Dict[str, Any]) -> None:
    """What runs before the walk. Raises RuntimeError, one line."""
    _run(options, "before")


def after(options: Dict[str, Any]) -> None:
    """What runs after it, also when the dump failed. Raises RuntimeError, one line."""
    _run(options, "after")
