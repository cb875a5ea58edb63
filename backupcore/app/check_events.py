"""What `check` says of those who are told what happened: whether the next event could be sent; none is.

Here live the findings; what can be wrong is each driver's to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Tuple

from ..hookspecs import EventError

if TYPE_CHECKING:
    from .engine import Engine


def wrong(engine: Engine) -> List[Tuple[str, str]]:
    """(what is wrong, the next step) of each event section that could not be told."""
    found = []
    for one in engine.settings.events.values():
        driver = engine.drivers.of("event")[one.type]
        if driver.check is None:
            continue
        try:
            driver.check(driver.options.model_validate(dict(one.options)))
        except EventError as error:
            found.append((f"event {one.name}: {error.message}", error.hint))
        except Exception as error:  # a third party's driver may raise anything
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            found.append((f"event {one.name}: driver {one.type} failed: {told}", "stowage drivers"))
    return found
