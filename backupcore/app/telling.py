"""Telling those who want to know: one event to one of them; and that a night has begun, while it begins.

Here live the call of a driver and the thread for the beginning, which must not make the night wait. What an event is
lives in hookspecs/, of what is told between two nights in watching.py.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, List, Optional

from .. import clock
from ..errors import EventFailed, StowageError
from ..hookspecs import Event, EventError
from ..settings import EventSettings

if TYPE_CHECKING:
    from .engine import Engine


def deliver(engine: Engine, one: EventSettings, event: Event) -> Optional[StowageError]:
    """Tells one of them, whether he asked for this kind or not; why that failed, None when it did not."""
    driver = engine.drivers.of("event")[one.type]
    try:
        driver.send(driver.options.model_validate(dict(one.options)), event)
    except EventError as error:
        return EventFailed(f"event {one.name}: {error.message}", error.hint or "stowage check")
    except Exception as error:  # a third party's driver may raise anything: it is named, the night goes on
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return EventFailed(f"event {one.name}: driver {one.type} failed: {told}", "stowage drivers")
    return None


def nobody() -> List[str]:
    """Waits for nothing: nobody was told."""
    return []


def begun(engine: Engine, run: Any) -> Callable[[], List[str]]:
    """Tells that a run of everything has begun. What it returns waits until all were told, so that its end is not told
    before, and says what could not be delivered."""
    if not any("run-begun" in one.events for one in engine.settings.events.values()):
        return nobody
    when = clock.iso(run.begun_ns)
    subject = f"stowage run {run.id} has begun"
    event = Event("run-begun", "OK", subject, subject, {"run": {"id": run.id, "begun": when}})
    failed: List[str] = []

    def tell() -> None:
        failed.extend(f"{error.message} -> {error.hint}" for error in engine.send(event))

    thread = threading.Thread(target=tell, name="begun", daemon=True)  # of a run that is killed nothing is to stay
    thread.start()

    def wait() -> List[str]:
        thread.join()
        return failed

    return wait
