"""The ways into staging: what is due now, and the service that makes it beside the dumps of a night.

Here lives what the parts are put together from; threads and order are service.py, one copy is copier.py.
"""

from __future__ import annotations

from typing import Any, Callable, Container, List, Optional, Sequence, Tuple

from .. import clock
from ..catalog.store import Catalog
from ..hookspecs import Target
from ..settings import Settings
from .copier import Copier, CopyResult, Progress
from .origins import Rooms
from .relief import Relief
from .service import Service
from .wanted import Due, due, rule_of

AGAIN_AFTER_NS = 3600 * clock.NS  # a copy that failed within its window is begun again by itself


def stage(
    settings: Settings,
    catalog: Catalog,
    open_target: Callable[[str], Target],
    *,
    targets: Optional[Sequence[str]] = None,
    sources: Optional[Sequence[Tuple[str, str]]] = None,
    progress: Progress = None,
    repair: Container[str] = (),
    now: bool = False,
    only: Optional[Callable[[Due], bool]] = None,
    leave: Optional[Callable[[], str]] = None,
    jobs: Optional[Sequence[Due]] = None,
    origin: str = "",
    rooms: Optional[Rooms] = None,
    seen: Callable[[Service], None] = lambda service: None,
) -> Tuple[CopyResult, ...]:
    """Makes the copies that are due, several at once. What fails is in the results and is tried again next time.

    Damaged copies and holding images are made anew from good ones. Call while the run lock is held. targets (HOLDING
    is one), sources: only these. repair: names of damaged dumps to be put together from what is right of them. An
    interrupt ends the copies at work where a later try can go on, and is raised again. now: windows are passed over.
    only: which of the copies. leave(): why all copies shall pause, '' while they need not. jobs: these copies, and
    nothing else, whatever is due; origin: made from this target alone. rooms: where room on a holding disk is taken
    from, by what has to come by way of one. seen(): gets the service.
    """
    copier = Copier(settings, catalog, open_target, progress, repair, now, leave, origin)
    copier.rooms = rooms
    service = Service(copier, targets=targets, sources=sources, only=only, jobs=jobs)
    copier.make_room = Relief(service).room
    with service:
        seen(service)
        return service.finish()


def beside_dumps(
    settings: Settings,
    catalog: Catalog,
    open_target: Callable[[str], Target],
    *,
    sources: Optional[Sequence[Tuple[str, str]]] = None,
    progress: Progress = None,
    **how: Any,
) -> Service:
    """The same while dumps are made: what is due is begun at once, and what they bring as soon as it is in the catalog.
    sources: only of these. Use as Service says."""
    return Service(Copier(settings, catalog, open_target, progress, **how), sources=sources, dumping=True)


def begins_now(settings: Settings, catalog: Catalog) -> List[Due]:
    """The copies that wait for a window which is open now, or waited for a copy at another target that is there now;
    those that failed, a while later again."""
    now = clock.now_ns()
    found = []
    for job in due(settings, catalog):
        rule = rule_of(settings, job.dump, job.row.target)
        rests = job.row.state in ("failed", "damaged") and now - job.row.updated_ns < AGAIN_AFTER_NS
        if rule is None or rule.windows is None and not rule.after or rests:
            continue
        if rule.windows is None or rule.windows.open_at(now):
            found.append(job)
    return found
