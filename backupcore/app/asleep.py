"""A staging that waits until what its copies are made from has woken in its archive, and then goes on.

Here lives the waiting; no lock is held meanwhile. What sleeps and how it is asked for is stage/waking.py's.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

from ..errors import RequestError
from ..stage import waking
from ..stage.origins import prefix_of

if TYPE_CHECKING:
    from .engine import Engine

LOOK_FIRST, LOOK_LAST = 5.0, 300.0  # seconds between two looks at what sleeps: the pauses grow


def stage(engine: Engine, make: Callable[[], Any], wait: Optional[float],
          progress: Optional[Callable[[dict], None]] = None) -> Any:  # fmt: skip
    """What make() answers (a staging.StageAnswer), made again when all has woken that its copies wait for, for at most
    wait seconds; None: not at all."""
    done = make()
    until = time.monotonic() + (wait or 0.0)
    while wait is not None and any(one.sleep is not None for one in done.copies):
        if not _woke(engine, done, until, progress):
            break
        done = _joined(done, make())
    return done


def _woke(engine: Engine, done: Any, until: float, progress: Optional[Callable[[dict], None]]) -> bool:
    """Waits; whether all is awake."""
    asleep = [one for one in done.copies if one.sleep is not None]
    total = sum(one.sleep.bytes for one in asleep)
    pause = LOOK_FIRST
    while True:
        rest = until - time.monotonic()
        if rest <= 0:
            return False
        if progress:
            first = asleep[0]
            progress({"client": first.client, "source": first.source, "dump": first.dump, "target": first.target,
                      "phase": "waiting for the archive", "bytes": 0, "total": total or None})  # fmt: skip
        time.sleep(min(pause, rest))
        pause = min(pause * 1.5, LOOK_LAST)
        if not waking.still(engine.target, asleep, lambda name: _prefix(engine, name)):
            return True


def _prefix(engine: Engine, name: str) -> str:
    dump = engine.catalog.dump(name)
    if dump is None:
        raise RequestError(f"the dump {name} is gone meanwhile", "stowage stage")
    return prefix_of(dump)


def _joined(before: Any, after: Any) -> Any:
    """Both answers as one: of a copy what came of it last."""
    found: Dict[Tuple[str, str], Any] = {(one.dump, one.target): one for one in before.copies}
    found.update({(one.dump, one.target): one for one in after.copies})
    return replace(
        after, copies=tuple(found.values()), released=(*before.released, *after.released),
        problems=tuple(dict.fromkeys((*before.problems, *after.problems))),
    )  # fmt: skip
