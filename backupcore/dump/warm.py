"""Connections that are begun before they are needed: ssh shakes hands while this process loads what it needs.

Here lives the small pool of them. A connection that ended or waited too long is made anew: it costs time, never a
dump. One that was begun by other words than the ones it is asked for by is never handed out.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Callable, Dict, NamedTuple, Sequence

from ..errors import StowageError
from ..settings import Client, Settings
from .transport import AgentConnection, connect

FRESH = 20.0  # seconds a connection may have waited


class _Begun(NamedTuple):
    when: float
    way: Any
    agent: AgentConnection


class Warm:
    """Begins connections; use as a context manager, which ends those that nobody used.

    connect is what driver.run_dumps() takes: it hands out what was begun, else begins anew.
    """

    def __init__(self, start: Callable[[Settings, Client], AgentConnection] = connect):
        self._start = start
        self._waiting: Dict[str, _Begun] = {}

    def begin(self, settings: Settings, clients: Sequence[Client]) -> None:
        """Begins connections to the first of clients, settings.dumps_at_once of them, where none is begun yet."""
        for client in list({client.name: client for client in clients}.values())[: settings.dumps_at_once]:
            known = self._waiting.get(client.name)
            if known is not None and known.way == _way(settings, client) and not known.agent.over():
                continue
            try:
                begun = _Begun(time.monotonic(), _way(settings, client), self._start(settings, client))
            except StowageError:
                continue  # it will be said when the dump asks
            self._waiting[client.name] = begun
            if known is not None:
                known.agent.close()

    def connect(self, settings: Settings, client: Client) -> AgentConnection:
        """A connection to client."""
        begun = self._waiting.pop(client.name, None)  # one thread gets it: dict.pop is atomic
        if begun is not None:
            fresh = time.monotonic() - begun.when < FRESH and begun.way == _way(settings, client)
            if fresh and not begun.agent.over():
                return begun.agent
            begun.agent.close()
        return self._start(settings, client)

    def keep(self, settings: Settings, client: Client, agent: AgentConnection) -> None:
        """Takes back a connection whose agent has answered and can be asked more."""
        now = time.monotonic()
        for name, begun in list(self._waiting.items()):  # nobody will want these: they must not keep others out
            old = self._waiting.pop(name, None) if now - begun.when >= FRESH else None
            if old is not None:
                old.agent.close()
        full = len(self._waiting) >= settings.dumps_at_once
        begun = _Begun(now, _way(settings, client), agent)
        if full or self._waiting.setdefault(client.name, begun) is not begun:
            agent.close(clean=True)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_exc: object) -> None:
        unused = [begun.agent for begun in self._waiting.values()]
        self._waiting.clear()
        for agent in unused:
            agent.cut()
        for agent in unused:
            agent.close()


def _way(settings: Settings, client: Client) -> Any:
    """All that decides how client is reached."""
    return (
        replace(client, sources={}, ignore={}, presence="", network="", dumps_at_once=1),
        settings.connect_timeout, settings.silence_timeout,
        settings.known_hosts, settings.ssh_key, settings.ssh_program,
    )  # fmt: skip
