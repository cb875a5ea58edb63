"""How long a run waits for clients that fail: what the configuration says of the night, and what was asked for now.

Here lives the way from words to dump.again.Patience, which says what it means, and who may cut the night's short.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Dict, Sequence

from ..catalog import places
from ..dump import runlock
from ..dump.again import Patience
from ..errors import RequestError
from ..text import parse_duration

WAIT = 3600.0  # seconds for which --wait-for waits where it does not say
LOOK = 5.0  # seconds between two looks at who waits


def patience(engine: Any, night: bool, wait_for: Sequence[str], chosen: Any) -> Patience:
    """night: as `retry` of the configuration says, else no longer than other dumps go on. wait_for: CLIENT[=DURATION]
    each. chosen: the sources of the run, None for all. Raises RequestError."""
    waited: Dict[str, float] = {}
    sources = engine.select() if chosen is None else chosen
    for word in wait_for:
        name, equals, span = word.partition("=")
        engine.select([name])  # it is known, and has sources
        if not any(source.client == name for source in sources):
            raise RequestError(f"--wait-for {name}, and nothing of it is to be dumped", f"stowage run --client {name}")
        try:
            waited[name] = parse_duration(span) if equals else WAIT
        except ValueError as error:
            raise RequestError(f"--wait-for {word}: {error}", f"stowage run --wait-for {name}=2h") from None
    retry = engine.settings.retry
    if not night:
        return Patience(waited=waited)
    return Patience(retry.time, retry.roaming, waited, _Others(engine.settings).wait)


def refused(engine: Any, chosen: Any) -> None:
    """A run of what is due found another at work: if that only waits for clients, it is to end."""
    if engine.plan(chosen, due=True).planned:
        with contextlib.suppress(OSError):  # then it waits as long as it would
            places.due_file(engine.settings.state).touch(0o600)


class _Others:
    """Whether others wait for the end of a run that began now; asked often, looked at now and then."""

    def __init__(self, settings: Any):
        self._settings, self._begun = settings, time.time()
        self._looked, self._found = -LOOK, False

    def wait(self) -> bool:
        """Another run, or what is due."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked, self._found = now, bool(runlock.waiting(self._settings)) or self._due()
        return self._found

    def _due(self) -> bool:
        try:
            return places.due_file(self._settings.state).stat().st_mtime >= self._begun
        except OSError:
            return False
