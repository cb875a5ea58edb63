"""Connections that are begun before they are needed: ssh shakes hands while this process loads its catalog.

Here lives the small pool of them. A connection that ended or waited too long is made anew: it costs time, never a dump.
"""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Sequence, Tuple

from ..errors import StowageError
from ..settings import Client, Settings
from .transport import AgentConnection, connect

FRESH = 20.0  # seconds a connection may have waited


class Warm:
    """Begins connections to the first of clients, settings.dumps_at_once of them; use as a context manager.

    connect is what driver.run_dumps() takes: it hands out what was begun, else begins anew.
    """

    def __init__(
        self,
        settings: Settings,
        clients: Sequence[Client],
        begin: Callable[[Settings, Client], AgentConnection] = connect,
    ):
        self._begin = begin
        self._waiting: Dict[str, Tuple[float, AgentConnection]] = {}
        for client in list({client.name: client for client in clients}.values())[: settings.dumps_at_once]:
            try:
                self._waiting[client.name] = (time.monotonic(), begin(settings, client))
            except StowageError:
                continue  # it will be said when the dump asks

    def connect(self, settings: Settings, client: Client) -> AgentConnection:
        """A connection to client."""
        began, agent = self._waiting.pop(client.name, (0.0, None))  # one thread gets it: dict.pop is atomic
        if agent is not None:
            if time.monotonic() - began < FRESH and not agent.over():
                return agent
            agent.close()
        return self._begin(settings, client)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_exc: object) -> None:
        unused: List[AgentConnection] = [agent for _began, agent in self._waiting.values()]
        self._waiting.clear()
        for agent in unused:
            agent.cut()
        for agent in unused:
            agent.close()
