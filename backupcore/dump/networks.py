"""The lines that clients share: how fast their dumps together may come.

Here lives which dumps share a limit; waiting is limiter.py. It holds where the server reads: what is not read fills
pipe, ssh and line, and then the client waits. So a dump may run ahead of its rate by what these hold: ssh's window of
2 MiB and little else, since the pipe is made small. What the server sends for a dump, such as the state of its base, is
held to the same rate, by itself: lines have two ways.
"""

from __future__ import annotations

from typing import Dict, Optional

from ..limiter import Limiter
from ..settings import Settings
from .streams import Pace


class Networks:
    """The limits of a run. Thread-safe."""

    def __init__(self, settings: Settings):
        self._clients = settings.clients
        rates = {name: one.rate for name, one in settings.networks.items() if one.rate is not None}
        self._limits: Dict[str, Limiter] = {name: Limiter(rate) for name, rate in rates.items()}
        self._sent: Dict[str, Limiter] = {name: Limiter(rate) for name, rate in rates.items()}

    def pace(self, client: str) -> Optional[Pace]:
        """What the bytes of a client wait for, None for nothing."""
        return self._of(self._limits, client)

    def sending(self, client: str) -> Optional[Pace]:
        """The same for bytes to a client."""
        return self._of(self._sent, client)

    def _of(self, limits: Dict[str, Limiter], client: str) -> Optional[Pace]:
        known = self._clients.get(client)
        found = limits.get(known.network) if known is not None else None
        return found.take if found is not None else None
