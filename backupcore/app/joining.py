"""A run that waits for another one: what it tells meanwhile, and what it need not dump any more.

Here lives what `run --join` takes from the run it waited for: dumps that were begun after it was asked for, whoever
made them, also one that was killed since. All else it dumps itself. Waiting is dump/runlock.py's.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from .. import clock
from ..catalog.records import DumpRow, ResultRow

if TYPE_CHECKING:
    from .engine import Engine

TELL = 60.0  # seconds between two words of what is waited for
NAME = "its turn"  # what stands in the place of a source meanwhile


def teller(ready: Any, progress: Optional[Callable[[dict], None]]) -> Callable[[Any], None]:
    """What runlock.hold() calls while it waits. ready: a dump.warm.Warm, whose connections would only grow old."""
    told = [0, 0.0]

    def tell(holder: Any) -> None:
        ready.__exit__(None, None, None)  # ends them; it can be used again
        new = holder.pid != told[0] or time.monotonic() - told[1] >= TELL
        if progress is not None and new:
            told[:] = holder.pid, time.monotonic()
            progress({"phase": "waiting", "name": NAME, "why": f"waits for {holder.name}, {holder.told}"})

    return tell


def over(progress: Optional[Callable[[dict], None]]) -> None:
    """It has the lock: what teller() told is no more."""
    if progress is not None:
        progress({"phase": "over", "name": NAME})


def take(engine: Engine, tonight: Any, asked_ns: int, level: Optional[int]) -> Tuple[Any, List[ResultRow], List[str]]:
    """(the plan without what was dumped since asked_ns, the results of that, what a person should know).

    tonight: a planning.Tonight. level: what was asked for; without, a dump counts when it is no deeper than the plan's.
    """
    made: Dict[Tuple[str, str, str], DumpRow] = {}
    now = clock.now_ns()
    for row in engine.catalog.dumps(since_ns=asked_ns):
        if row.begun_ns <= now and not row.damaged:  # one that is dated in the future was begun nobody knows when
            made[row.client, row.source, row.segment] = row
    left, taken, runs = [], [], set()
    for one in tonight.planned:
        row = made.get((one.client, one.source, one.segment))
        exact = level is not None or (one.client, one.source) in tonight.asked_once
        if row is None or (row.level != one.level if exact else row.level > one.level):
            left.append(one)
        else:
            taken.append(_result(engine, row))
            runs.add(row.run)
    if not taken:
        return tonight, [], []
    named = ", ".join(sorted(runs))
    what = "1 dump was" if len(taken) == 1 else f"{len(taken)} dumps were"
    told = [f"{what} made by run {named} since {clock.local(asked_ns)}, while this one waited: not made again"]
    return replace(tonight, planned=tuple(left)), taken, told


def _result(engine: Engine, row: DumpRow) -> ResultRow:
    """What its run said of a dump; one that was killed before it could say anything made it all the same."""
    for result in engine.catalog.results(row.run):
        if result.dump == row.id:
            return result
    return ResultRow(row.run, row.client, row.source, True, row.level, row.id,
                     seconds=max(0, row.ended_ns - row.begun_ns) / clock.NS, segment=row.segment)  # fmt: skip
