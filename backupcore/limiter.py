"""So many bytes a second, whoever moves them: what copies to a target and dumps over a network are held back by.

Here lives waiting; the rates by the hours of the week are hours.py, who shares a limit is for others to say.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import Callable, Deque, Iterator, Optional

from . import clock
from .hours import Rates

STEP = 0.5  # the longest sleep at once: a rate that changes and an interrupt are seen that soon
CREDIT = 0.1  # seconds of the rate that may be caught up after a late awakening


class Limiter:
    """So many bytes a second, whoever sends them. check(): called while waiting; may raise to end that."""

    def __init__(
        self,
        rates: Rates,
        check: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = lambda: clock.now_ns(),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.rates, self._check, self._now_ns = rates, check, now_ns
        self._monotonic, self._sleep = monotonic, sleep
        self._lock = threading.Lock()
        self._turns: Deque[threading.Event] = deque()  # of those in take(), the first is set
        self._tokens = 0.0  # below 0: what was sent ahead of its time
        self._at = monotonic()
        self._rate: Optional[float] = None
        self._holds = 0  # up to when the rate holds, in ns

    def take(self, count: int, check: Optional[Callable[[], None]] = None) -> None:
        """Waits until count more bytes may be sent. What was taken before is paid for first: no piece is too large.
        check: of the caller, beside that of all."""

        def look() -> None:
            self._check()
            if check is not None:
                check()

        with self._turn(look):
            while True:
                look()
                rate = self._refill()
                if rate is None or self._tokens >= 0:
                    self._tokens = self._tokens - count if rate is not None else 0.0
                    return
                self._sleep(min(-self._tokens / rate, STEP))

    @contextlib.contextmanager
    def _turn(self, look: Callable[[], None]) -> Iterator[None]:
        """One after the other, as they came: by a mere lock who had it last gets it again, and others none at all."""
        mine = threading.Event()
        with self._lock:
            self._turns.append(mine)
            self._turns[0].set()
        try:
            while not mine.wait(STEP):
                look()
            yield
        finally:
            with self._lock:
                self._turns.remove(mine)
                if self._turns:
                    self._turns[0].set()

    def _refill(self) -> Optional[float]:
        now, passed = self._monotonic(), 0.0
        passed, self._at = now - self._at, now
        if self._rate is not None:
            self._tokens = min(self._tokens + passed * self._rate, CREDIT * self._rate)
        if self._now_ns() >= self._holds:
            moment = self._now_ns()
            self._rate = self.rates.at(moment)
            until = self.rates.until(moment)
            # looked at again in a while, too: somebody may set the clock
            self._holds = min(until or moment + 60 * clock.NS, moment + 60 * clock.NS)
        return self._rate
