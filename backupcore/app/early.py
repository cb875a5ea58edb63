"""Begins the connections of a run by what is written in the files, while everything else is still loading.

Loading the models, the drivers and the database takes longer than ssh's login, and both can be done at once. What
is begun here is only a guess: dump.warm hands a connection out only when the checked configuration, which is loaded
by then, asks for the very same one; until then nothing is asked of the agent. So whatever looks odd here is left out.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, List, Sequence

from .. import settings as s
from ..dump.warm import Warm
from ..ids import is_name
from ..text import parse_duration
from .config_files import Written

_WAY = {
    one.name
    for one in dataclasses.fields(s.Client)
    if one.name not in ("name", "sources", "ignore", "presence", "address", "network", "dumps_at_once")
}


def begin(ready: Warm, written: Written, clients: Sequence[str] = (), sources: Sequence[str] = ()) -> None:
    """Begins the first connections of a run of these clients and sources (none named: of all)."""
    try:
        ready.begin(_settings(written), _clients(written.content["clients"], clients, sources))
    except (AttributeError, KeyError, TypeError, ValueError, OSError):
        return  # the configuration says it better


def _settings(written: Written) -> s.Settings:
    content, folder = written.content, written.file.parent
    ssh, timeouts = content.get("ssh") or {}, content.get("timeouts") or {}
    given: Dict[str, Any] = {f"{name}_timeout": parse_duration(value) for name, value in timeouts.items()}
    if "program" in ssh:
        given["ssh_program"] = ssh["program"]
    return s.Settings(
        file=written.file, state=Path(), keys=Path(), holding=(), cycle_days=0, targets={}, policies={}, clients={},
        dumps_at_once=int(content.get("dumps_at_once", s.Settings.dumps_at_once)),
        known_hosts=Path(ssh.get("known_hosts") or folder / "known_hosts.d"),
        ssh_key=Path(ssh.get("key") or folder / "ssh/id_ed25519"),
        **given,
    )  # fmt: skip


def _clients(section: Dict[str, Any], clients: Sequence[str], sources: Sequence[str]) -> List[s.Client]:
    found = []
    for name in clients or section:
        written = section[name]
        mine = written.get("sources") or {}
        wanted = [one for one in mine if not sources or one in sources or f"{name}:{one}" in sources]
        if not wanted or not is_name(name) or written.get("state") == "retired":
            continue
        way = {key: value for key, value in written.items() if key in _WAY}
        address = written.get("address") or name
        if all(type(value) is type(getattr(s.Client, key)) for key, value in way.items()) and isinstance(address, str):
            found.append(s.Client(name, {}, address=address, **way))
    return found
