"""What a booted lab host differs in from the machine it is a copy of, and what came or went between two looks.

    python tests/lab/traces.py LAB look NAME FILE                 writes what there is now
    python tests/lab/traces.py LAB compare NAME FILE [PATTERN …]  prints what differs from FILE, but paths that match
                                                                  a PATTERN; status 1 when something does

Reads the folder in which overlayfs keeps what a host wrote (booted.py's upper), and its /run, /tmp and /dev/shm, which
are in memory. What reads as it does on this machine is no difference. Knows nothing of Stowage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import stat
import sys
from pathlib import Path

import booted
import hosts

IN_MEMORY = ("run", "tmp", "dev/shm")
# What a machine writes by itself, and what Ansible and the tools that make users leave behind by design.
BY_ITSELF = (
    r"/var/log(/.*)?", r"/run/(systemd|udev|log|dbus|user|utmp|lock|motd.*|ansible.*)(/.*)?", r"/run/[^/]*\.pid",
    r"/var/lib/systemd(/(timers|random-seed|(catalog|linger|coredump|pstore|backlight|credential.*|rfkill)(/.*)?))?",
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-", r"/etc/\.(pwd\.lock|updated)", r"/etc/(machine-id|localtime)",
    r"/root/\.ansible(/.*)?", r"(/var)?/tmp(/systemd-private-.*)?", r"/tmp/\..*-unix", r"/root(/\.(local|cache))?",
    r"/var/(\.updated|lib/dbus(/.*)?|cache/(ldconfig|man)(/.*)?)", r"/var/lib/(apt|dpkg)/.*lock.*",
    r"/var/lib/sudo(/lectured)?",
)  # fmt: skip


def look(lab: Path, name: str) -> dict[str, str]:
    """path -> what it is, for all in which the host differs from this machine."""
    found: dict[str, str] = {}
    _walk(booted.upper(lab, name), "", found, lower=True)
    inside = Path(f"/proc/{hosts.inner_pid(lab, name)}/root")
    for part in IN_MEMORY:
        _walk(inside / part, "/" + part, found, lower=False)
    return found


def _walk(top: Path, above: str, found: dict[str, str], lower: bool) -> None:
    for entry in os.scandir(top):
        path = f"{above}/{entry.name}"
        try:
            told = _told(Path(entry.path))
        except OSError:
            continue
        if not (lower and told == _here(path)):
            found[path] = told
        if entry.is_dir(follow_symlinks=False):
            _walk(Path(entry.path), path, found, lower)


def _here(path: str) -> str:
    try:
        return _told(Path(path))
    except OSError:
        return "gone"


def _told(path: Path) -> str:
    status = path.lstat()
    whose = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISCHR(status.st_mode) and not status.st_rdev:
        return "gone"  # as overlayfs marks it
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)}"
    if stat.S_ISREG(status.st_mode):
        return f"{whose} {status.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    return whose


def differences(before: dict[str, str], after: dict[str, str], passed: list[str]) -> list[str]:
    """A line for each path that came, went or changed."""
    leave = re.compile("|".join(f"(?:{one})" for one in (*BY_ITSELF, *passed)))
    lines = []
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path) and not leave.fullmatch(path):
            lines.append(f"{path}: {before.get(path, 'as on this machine')} -> {after.get(path, 'as on this machine')}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="what a lab host differs in")
    parser.add_argument("lab", type=Path)
    parser.add_argument("verb", choices=["look", "compare"])
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    parser.add_argument("patterns", nargs="*")
    options = parser.parse_args()
    seen = look(options.lab, options.name)
    if options.verb == "look":
        options.file.write_text(json.dumps(seen))
        return 0
    lines = differences(json.loads(options.file.read_text()), seen, options.patterns)
    print("\n".join(lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
