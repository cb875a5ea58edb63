"""When what failed is tried again in the same night: pauses that grow, and an end.

Here lives what is known of failures that may mend themselves (errors' `again`): of clients that cannot be reached, and
of single dumps whose line was cut. While other dumps go on a try costs the night nothing, so it is made; how long a run
that has nothing else to do goes on trying is Patience. Nothing here has a thread or asks a clock: moments are seconds
that only grow. Call all of it under one lock.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Callable, Dict, Mapping, Optional, Sequence, Union

from ..errors import StowageError
from ..schedule.bases import Planned
from ..settings import Client
from ..text import duration
from .budget import Key, key_of

FIRST = 15.0  # seconds until the second try; each further pause is twice as long
SOON = 5.0  # instead, where the line brought something, and for a client that somebody waits for
STEP = 1 << 20  # bytes more than ever before: so much is something
MOST = 50  # tries of a dump, whatever it brings
LONGEST = 600.0
WAITED = 30.0  # the longest pause for a client that somebody waits for
PROGRESS = 30.0  # seconds for which a dump that came further than ever before is tried again at least
LAST = 60.0  # a try that is older than this does not say what is: one more is made before it is given up


@dataclass(frozen=True)
class Patience:
    """For how many seconds after its first failure a dump is tried again when the run has nothing else to do.

    usual: of most clients, roaming: of those that are. waited: client -> of one that somebody waits for. hurried():
    whether others wait for the end of this run: then it waits for nobody else.
    """

    usual: float = 0.0
    roaming: float = 0.0
    waited: Mapping[str, float] = field(default_factory=dict)
    hurried: Callable[[], bool] = lambda: False

    def of(self, name: str, client: Optional[Client]) -> float:
        """That of a client."""
        if name in self.waited:
            return self.waited[name]
        if self.hurried():
            return 0.0
        return self.roaming if client is not None and client.presence == "roaming" else self.usual


@dataclass
class Try:
    """What failed and may go well later. since: when its patience began; last: when it was tried last; next: when it is
    tried again; came: bytes it had at best; tries: how many; over: it is not tried again tonight."""

    error: StowageError
    begun: float
    since: float
    last: float
    next: float
    pause: float = FIRST
    came: int = 0
    tries: int = 1
    final: bool = False  # its last try is to come
    over: bool = False

    def told(self) -> StowageError:
        """The error, with how often it was tried."""
        if self.tries < 2:
            return self.error
        error = copy.copy(self.error)
        error.message += f" (tried {self.tries} times in {duration(self.last - self.begun)})"
        return error


class Again:
    """All failures of a run that are not the last word, and those that are their client's."""

    def __init__(self, clients: Mapping[str, Client], patience: Patience = Patience()):
        self._clients, self._patience = clients, patience
        self._tries: Dict[Union[str, Key], Try] = {}  # by client that was not reached, and by dump that failed

    def __bool__(self) -> bool:
        """Whether anything is known of any."""
        return bool(self._tries)

    def failed(
        self, one: Planned, error: StowageError, reached: bool, came: int, now: float, took: float = 0.0
    ) -> Optional[Try]:
        """A dump failed. reached: whether its client had answered; came: bytes of it; took: seconds it was at work.
        None when that is final."""
        key = key_of(one) if reached else one.client
        known = self._tries.get(key)
        if not error.again:
            if not reached:  # the other dumps of this client need not ask
                self._tries[key] = Try(error, now, now, now, now, over=True)
            return None
        if known is None:
            first = SOON if one.client in self._patience.waited else FIRST
            known = self._tries[key] = Try(error, now, now, now, now, first / 2, tries=0)
        known.error = error
        if now < known.next:  # begun before the failure that is known
            return known
        known.tries, known.last = known.tries + 1, now
        if came >= known.came + STEP:
            known.came, known.since, known.pause = came, now, SOON
            known.next = now + SOON
        else:
            longest = WAITED if one.client in self._patience.waited else LONGEST
            known.pause = min(known.pause * 2, longest)
            known.next = now + max(known.pause, min(took, longest))  # who is silent for minutes is asked seldom
        known.over = reached and known.tries >= MOST
        return None if known.over else known

    def reached(self, client: str) -> None:
        """A client answers."""
        if client in self._tries and not self._tries[client].over:
            del self._tries[client]

    def of(self, one: Planned) -> Optional[Try]:
        """What a dump waits for, None for nothing."""
        of_client, own = self._tries.get(one.client), self._tries.get(key_of(one))
        if of_client is None or own is None:
            return of_client or own
        return max(of_client, own, key=lambda each: (each.over, each.next))

    def remark(self, one: Planned) -> str:
        """What is said of a dump that is whole, and was not the first time; '' mostly."""
        known = self._tries.get(key_of(one))
        return "" if known is None else f"begun {known.tries + 1} times: {known.error.message}"

    def verdict(self, one: Planned) -> Optional[StowageError]:
        """Why a dump is not to be tried at all any more."""
        found = self.of(one)
        return found.told() if found is not None and found.over else None

    def is_out_of_patience(self, one: Planned, now: float) -> bool:
        """Whether nobody would wait for another try of a dump that is all there is to do."""
        return now >= self._until(one)

    def nothing_else(self, waiting: Sequence[Planned], now: float) -> None:
        """The run has nothing to do but these: gives up what nobody waits for any longer."""
        for one in waiting:
            found = self.of(one)
            if found is None or found.over or found.next <= now or now < self._until(one):
                continue
            if not found.final and now - found.last >= LAST:
                found.final, found.next = True, now
            else:
                found.over = True

    def wait(self, one: Planned, now: float) -> float:
        """Seconds until something is to be done about a dump that waits for its next try."""
        found, until = self.of(one), self._until(one)
        return 0.0 if found is None else (min(found.next, until) if until > now else found.next) - now

    def _until(self, one: Planned) -> float:
        found = self.of(one)
        if found is None:
            return 0.0
        until = found.since + self._patience.of(one.client, self._clients.get(one.client))
        own = self._tries.get(key_of(one))  # a line that was cut is mostly gone for a moment
        return max(until, own.since + PROGRESS) if own is not None and own.came else until
