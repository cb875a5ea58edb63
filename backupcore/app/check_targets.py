"""What `check` asks of targets: each for itself by its driver's probe, then whether two of them are one place.

Here live the findings. What a kind proves of itself is its driver's, what a place is known by stage/identity.py's.
"""

from __future__ import annotations

from typing import Iterator, Sequence

from ..errors import StowageError
from ..hookspecs import TargetError
from . import check_copies
from .engine import Engine
from .found import FAIL, OK, WARN, Finding


def look(engine: Engine, name: str) -> Iterator[Finding]:
    """One target."""
    from ..stage.identity import Identities

    target = engine.target(name)
    good = 0
    failed = False
    try:
        for one in target.probe():
            if one.ok and not one.warning:
                good += 1
                continue
            status = WARN if one.ok or one.warning else FAIL
            failed = failed or status == FAIL
            yield Finding(status, "target", name, f"{one.name}: {one.message}", one.hint, "target-refused")
        locks = target.capabilities.lock  # a place that nobody asked yet is asked now
        other = Identities(engine.settings, engine.server_id, engine.target).shown_by(name, target)
    except TargetError as error:
        if not failed:  # else it was said why
            yield Finding(FAIL, "target", name, error.message, error.hint, "target-refused")
        return
    for message, hint in check_copies.locks(engine, name, locks):
        yield Finding(FAIL, "target", name, message, hint, "target-refused")
    if other is not None:
        told = f"it shows the mark of target {other}: one place under two addresses, or a copy of that"
        hint = "take one of the two out of the configuration; if it is a copy: stowage stage"
        yield Finding(FAIL, "target", name, told, hint, "target-refused")
    if good:
        yield Finding(OK, "target", name, f"{good} checks passed")


def alike(engine: Engine, names: Sequence[str]) -> Iterator[Finding]:
    """Places under two addresses among targets that have no mark yet, since none was used. names: those that answer."""
    from ..stage.identity import Identities

    if len(names) < 2:
        return
    identities = Identities(engine.settings, engine.server_id, engine.target)
    try:
        for error in identities.tried(names):
            yield Finding(FAIL, "target", error.names[1], error.message, error.hint, error.code)
    except StowageError as error:
        yield Finding(FAIL, "target", names[0], error.message, error.hint, error.code)
