"""What an agent says for people while its dump comes in: escaped, bounded, counted.

Here lives what is kept of it; the errors that end a dump are not here.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

from ..errors import WireError
from ..text import escape

KEPT = 200
LIMIT = 1_000_000


class Notes:
    """The notes of one dump. warnings: how many of them are. goes_on: those of what is passed over come twice."""

    def __init__(self, peer: str):
        self._peer, self.goes_on = peer, False
        self._kept: List[str] = []
        self._said = self.warnings = 0

    def say(self, value: Dict[str, Any], journal: Callable[[str, bool], None]) -> None:
        """The agent says something; journal(text, whether it is a warning) keeps it for another attempt. Raises
        WireError."""
        if self._said >= LIMIT:
            raise WireError(f"{self._peer} sends notes without end")
        path, message = (escape(str(value.get(name, ""))[:1000]) for name in ("path", "message"))
        text, warning = f"{path}: {message}" if path else message, value.get("level") != "info"
        if self.take(text, warning):
            journal(text, warning)

    def take(self, text: str, warning: bool) -> bool:
        """A note as the journal has it. Whether it is kept."""
        if self.goes_on and text in self._kept:
            return False
        self._said += 1
        self.warnings += warning
        if len(self._kept) >= KEPT:
            return False
        self._kept.append(text)
        return True

    def add(self, text: str) -> None:
        """This server's own."""
        self._kept.append(text)

    def told(self) -> Tuple[str, ...]:
        """All that is kept, and how many more there were."""
        more = self._said - len(self._kept)
        return (*self._kept, *([f"and {more} more"] if more > 0 else []))
