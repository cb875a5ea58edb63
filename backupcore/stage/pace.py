"""When copies may send, and how fast: one limit over all uploads of a target, one over those of a copy rule.

Here lives who waits for what. A Pace is what a target's put is given. Not here: waiting for a rate (limiter.py), the
windows themselves (hours.py), what becomes of a copy whose window closes (stager.py).
"""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

from .. import clock
from ..hookspecs import Paused, Target
from ..hours import Windows, shown
from ..limiter import Limiter
from ..settings import CopyRule, Settings, Source


class Gate:
    """Whether a copy's window is open. leave(): why all copies shall pause now, '' while they need not; None: never."""

    def __init__(
        self,
        windows: Optional[Windows],
        leave: Optional[Callable[[], str]] = None,
        now_ns: Callable[[], int] = lambda: clock.now_ns(),
    ):
        self.windows, self.leave, self._now_ns = windows, leave, now_ns
        self._open_until = 0

    def check(self) -> None:
        """Raises Paused when nothing may be sent now."""
        why = self.leave and self.leave() or self.closed()
        if why:
            raise Paused(why)

    def closed(self) -> str:
        """`waits for its window: Mon 22:00`, '' while it is open."""
        now = self._now_ns()
        if self.windows is None or now < self._open_until:
            return ""
        if not self.windows.open_at(now):
            opens = self.windows.opens(now)
            return "waits for its window" + (f": {shown(opens)}" if opens is not None else "")
        soon = now + 60 * clock.NS  # looked at again in a while, too: somebody may set the clock
        self._open_until = min(self.windows.until(now) or soon, soon)
        return ""

    def opens(self) -> Optional[int]:
        """When it opens next, in ns; None: it is open."""
        return None if self.windows is None or not self.closed() else self.windows.opens(self._now_ns())


class Pace:
    """What a put is given: pace(n) before n bytes are sent."""

    def __init__(self, gate: Gate, limiters: Iterable[Limiter], check: Callable[[], None] = lambda: None):
        self.gate, self.limiters, self._check = gate, tuple(limiters), check

    @property
    def needed(self) -> bool:
        """Whether it ever holds anything up."""
        return bool(self.limiters) or self.gate.windows is not None or self.gate.leave is not None

    def __call__(self, count: int) -> None:
        """Waits for the rates; then raises Paused when nothing may be sent now."""
        self._check()
        if count:
            for limiter in self.limiters:
                limiter.take(count)
        self.gate.check()


class Paces:
    """All limits of one staging. check(): raises when all copies end; leave(): as Gate's."""

    def __init__(self, settings: Settings, check: Callable[[], None], leave: Optional[Callable[[], str]] = None,
                 now: bool = False):  # fmt: skip
        """now: windows are passed over, rates are not."""
        self._check, self._leave, self._now = check, leave, now
        self._lock = threading.Lock()
        self._of_rules: Dict[Tuple[str, str], Limiter] = {}
        self._of_targets = {
            name: Limiter(one.rate, check) for name, one in settings.targets.items() if one.rate is not None
        }

    def gate(self, rule: Optional[CopyRule]) -> Gate:
        """The window of a rule; None: of a source that left the configuration, always open."""
        return Gate(rule.windows if rule is not None and not self._now else None, self._leave)

    def of(self, said_by: str, target: str, rule: Optional[CopyRule]) -> Pace:
        """The pace of a copy. said_by: who asks for the rate: those that it stands for share it."""
        limiters = [self._of_targets[target]] if target in self._of_targets else []
        if rule is not None and rule.rate is not None:
            with self._lock:
                limiters.append(self._of_rules.setdefault((said_by, target), Limiter(rule.rate, self._check)))
        return Pace(self.gate(rule), limiters, self._check)


def said_by(source: Optional[Source], target: str) -> str:
    """Where the rate of a source's copies to a target is written: those that it stands for share it."""
    if source is None:
        return ""
    return source.origins.get(f"copies.{target}.rate", source.policy.name)


def put(target: Target, pace: Optional[Pace], name: str, path: Path, size: int, **more: Any) -> Any:
    """target.put at that pace; a driver that knows no pace is not begun out of time, and paid for as a whole."""
    if pace is None:
        return target.put(name, path, **more)
    if knows_pace(target):
        return target.put(name, path, pace=pace, **more)
    pace(size)
    return target.put(name, path, **more)


def knows_pace(target: Target) -> bool:
    """Whether its put takes a pace."""
    try:
        known = inspect.signature(target.put).parameters
    except (TypeError, ValueError):
        return False
    return "pace" in known or any(one.kind is one.VAR_KEYWORD for one in known.values())
