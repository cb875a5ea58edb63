"""Who asks: what the kernel and the system's login service know, and what the environment says.

Here lives looking; nothing here decides anything. uid and login come from the kernel: a login's user stays the same
through sudo and su, and only root can set it. from_host is the login service's. sudo, ssh and caller are what the
environment says: a help, and no proof, since whoever calls can write anything there.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Dict, Mapping, Union

NOBODY = 0xFFFFFFFF  # the kernel's word for: no login (a timer, a container)
SESSIONS = Path("/run/systemd/sessions")
_WORD = re.compile(r"[A-Za-z0-9_.:@%+ -]{1,100}\Z")


def who(environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc/self"),
        sessions: Path = SESSIONS) -> Dict[str, Union[str, int]]:  # fmt: skip
    """JSON-ready: uid, user; login, session, from_host, sudo, ssh, caller where they are known."""
    found: Dict[str, Union[str, int]] = {"uid": os.getuid(), "user": _name(os.getuid())}
    if os.geteuid() != os.getuid():
        found["euid"] = os.geteuid()
    login = _number(proc / "loginuid")
    if login is not None and login != NOBODY:
        found["login"] = _name(login)
        session = _number(proc / "sessionid")
        if session is not None and session != NOBODY:
            found["session"] = session
            host = _remote(sessions / str(session))
            if host:
                found["from_host"] = host
    for name, variable in (("sudo", "SUDO_USER"), ("caller", "STOWAGE_CALLER")):
        word = environment.get(variable, "")
        if _WORD.match(word):
            found[name] = word
    words = (environment.get("SSH_CONNECTION") or environment.get("SSH_CLIENT") or "").split()
    if words and _WORD.match(words[0]):
        found["ssh"] = words[0]
    return found


def shown(found: Mapping[str, Union[str, int]]) -> str:
    """For people: `anna from 10.0.0.5 as stowage`. What only the environment says has a ? behind it."""
    user = str(found.get("user") or found.get("uid") or "?")
    login = str(found.get("login") or "")
    sudo = str(found.get("sudo") or "")
    name = login or (f"{sudo}?" if sudo else user)
    host = str(found.get("from_host") or "")
    ssh = str(found.get("ssh") or "")
    told = name + (f" from {host}" if host else f" from {ssh}?" if ssh else "")
    told += f" as {user}" if name != user else ""
    return told + (f", {found['caller']}?" if found.get("caller") else "")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _number(path: Path) -> Union[int, None]:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _remote(path: Path) -> str:
    """Where a session of the login service comes from; '' when it is of this machine, or unknown."""
    try:
        told = dict(line.split("=", 1) for line in path.read_text("utf-8").splitlines() if "=" in line)
    except (OSError, ValueError):
        return ""
    host = told.get("REMOTE_HOST", "")
    return host if _WORD.match(host) else ""
