"""Copies that are made from what sleeps in an archive of another target: asked for, and gone on with when it is awake.

Here live the asking and what is told of it. Nothing is kept here: the place knows what was asked for, the row of the
copy how far it is. What a restore needs is restore/sleeping.py's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence, Tuple

from .. import text
from ..errors import StillAsleep, StowageError
from ..hookspecs import Asleep, Target, TargetError
from ..image.copies import asleep_told
from ..settings import Settings

DAYS = 7  # so long what was asked for stays awake
AT_ONCE = 8


@dataclass(frozen=True)
class Sleep:
    """Files of a dump that sleep at a target. usual: how long they take to wake, where the place says."""

    target: str
    files: int
    bytes: int
    usual: str = ""

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Sleeping(StillAsleep):
    """A copy cannot go on: what it is made from sleeps. origin: where."""

    def __init__(self, failure: StillAsleep, origin: Any):
        super().__init__(failure.message, failure.hint)
        self.origin = origin


class Asked(StillAsleep):
    """What the copy is made from was asked for, and is not awake yet."""

    def __init__(self, sleep: Sleep, settings: Settings):
        told = told_of([sleep], settings)
        super().__init__(f"asleep in an archive, asked for: {told}", "stowage stage, later")
        self.sleep = sleep


def worth_more(error: Optional[StowageError], failure: StowageError, origin: Any) -> StowageError:
    """Of two failures the one to be told: what can be woken is a way, whatever else does not go."""
    if isinstance(failure, StillAsleep):
        return error if isinstance(error, Sleeping) else Sleeping(failure, origin)
    return error or failure


def wake(target: Target, prefix: str, name: str, done: Collection[str] = (), usual: str = "") -> Optional[Sleep]:
    """Asks for the files of a dump at a target, all but those that are copied already; None when all are awake.

    name: the target's. Raises StillAsleep when the place refuses.
    """
    below = prefix + "/"

    def ask(found: Any) -> bool:
        try:
            return bool(target.wake(found.name, DAYS))
        except TargetError as error:
            told = f"{found.name} sleeps in an archive of target {name} and cannot be asked for"
            raise StillAsleep(f"{text.escape(told)}: {text.escape(error.message)}", error.hint) from None

    try:
        files = [found for found in target.list(below) if found.name[len(below) :] not in done]
    except TargetError as error:
        raise StillAsleep(f"target {name}: {text.escape(error.message)}", error.hint) from None
    with ThreadPoolExecutor(AT_ONCE, "wake") as pool:
        asleep = [found for found, awake in zip(files, pool.map(ask, files)) if not awake]
    if not asleep:
        return None
    return Sleep(name, len(asleep), sum(found.size for found in asleep), usual or _usual(target, asleep[0].name))


def _usual(target: Target, name: str) -> str:
    """How long it takes, as the place says when one tries to read."""
    try:
        next(iter(target.read(name, 0, 1)), b"")
    except Asleep as error:
        return error.hint
    except TargetError:
        pass
    return ""


def told_of(sleeps: Sequence[Sleep], settings: Settings) -> str:
    """What a person has to know, of all that sleep: a clause for each target."""
    found: Dict[str, List[Sleep]] = {}
    for one in sleeps:
        found.setdefault(one.target, []).append(one)
    return "; ".join(
        asleep_told(
            name, sum(one.files for one in of_it), sum(one.bytes for one in of_it),
            next((one.usual for one in of_it if one.usual), ""),
            settings.targets[name].price if name in settings.targets else None,
        )
        for name, of_it in found.items()
    )  # fmt: skip


def lines(copies: Sequence[Any], settings: Settings) -> Tuple[str, ...]:
    """One line for each target that copies (copier.CopyResult) wait for: so much was asked for."""
    found: Dict[Tuple[str, str], List[Sleep]] = {}
    for one in copies:
        if one.sleep is not None:
            found.setdefault((one.target, one.sleep.target), []).append(one.sleep)
    return tuple(
        f"{len(of_it)} {'copies' if len(of_it) > 1 else 'copy'} to {target}: asleep in an archive, asked for: "
        + told_of(of_it, settings)
        for (target, _origin), of_it in found.items()
    )


def still(open_target: Callable[[str], Target], copies: Sequence[Any], prefix_of: Callable[[str], str]) -> bool:
    """Whether anything that these copies wait for sleeps. Raises StowageError."""
    return any(wake(open_target(one.sleep.target), prefix_of(one.dump), one.sleep.target, usual="-") is not None
               for one in copies if one.sleep is not None)  # fmt: skip
