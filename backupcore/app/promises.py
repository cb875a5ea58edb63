"""What is promised of the copies at targets, wired: since when each target is in use, and how all of it stands.

Here lives the note of a target's first run; what a promise is lives in report/promised.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

from .. import clock, files
from ..settings import Settings

RECENT_NS = 45 * 86400 * clock.NS
FEW = 50  # sources that are read one by one


def _file(settings: Settings, target: str) -> Path:
    return settings.state / "targets" / target / "since"


def note(settings: Settings) -> None:
    """A run knows these targets now: what is promised of a new one counts from here."""
    for name in settings.targets:
        path = _file(settings, name)
        if not path.exists():
            files.make_folder(path.parent)
            files.replace(path, f"{clock.now_ns()}\n".encode())


def since(settings: Settings) -> Dict[str, int]:
    """When a run first knew each target, in ns."""
    found = {}
    for name in settings.targets:
        try:
            found[name] = int(_file(settings, name).read_bytes())
        except (OSError, ValueError):
            continue  # no run yet; the next one notes it
    return found


def look(settings: Settings, catalog: Any, now_ns: int) -> List[Any]:
    """How all that is promised stands (report.promised.Promised), the worst first."""
    from ..catalog import slim
    from ..report import promised

    known = since(settings)
    if not known:
        return []
    # what is kept shows in the last weeks; only for the rest it matters what is older
    rows = slim.read(catalog, now_ns - RECENT_NS)
    kept: Dict[Tuple[str, str], bool] = {}
    for one in promised.look(settings, rows, known, now_ns):
        sure = one.kept and one.age is not None
        kept[one.client, one.source] = kept.get((one.client, one.source), True) and sure
    unsure = [key for key in ((one.client, one.name) for one in settings.sources()) if not kept.get(key)]
    if len(unsure) > FEW:
        rows = slim.read(catalog)
    else:
        for key in unsure:
            rows.update(slim.read(catalog, source=key))
    return promised.look(settings, rows, known, now_ns)
