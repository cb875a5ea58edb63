"""What drills left in the catalog: one record for each source they tried, in the summary of their run.

Here lives the shape of that summary, written by app/ and read by the report and by the choice of the next drill;
anything in it may be of another version or missing. What a drill is: backupcore.verify.drill.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, List, Mapping, Tuple

from .. import clock
from .records import RunRow

KIND = "drill"
DAYS = 30  # so long a drill counts
NIGHT = 20 * 3600.0  # seconds after which the next night is there
RUNS = 1000  # are looked at, at most
# proven: what was asked for came back as it was. failed: it did not. sealed: no private key was at hand.
# unproven: something else kept it from being tried to the end.
PROVEN, FAILED, SEALED, UNPROVEN = "proven", "failed", "sealed", "unproven"
CLIENT, SERVER = "client", "server"
_TYPES = {"int": int, "float": (int, float), "str": str}


@dataclass(frozen=True)
class Drilled:
    """What a drill of one source came to. what: files, or source for all of it. place: read from; where: restored.

    read, requests: bytes and reads at the place; seconds: from the connection to the last check. note: what a person
    should know all the same; message, hint: why it is not proven.
    """

    client: str
    source: str
    what: str
    place: str
    where: str
    status: str
    dump: str = ""
    files: int = 0
    bytes: int = 0
    read: int = 0
    requests: int = 0
    seconds: float = 0.0
    when_ns: int = 0
    note: str = ""
    code: str = ""
    message: str = ""
    hint: str = ""

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def of_run(run: RunRow) -> List[Drilled]:
    """The records of one drill, in their order; what cannot be read is left out."""
    found = []
    for values in _list(run.summary.get("results")):
        if isinstance(values, dict):
            known = {one.name: values[one.name] for one in fields(Drilled) if one.name in values}
            right = all(
                isinstance(known[one.name], _TYPES[str(one.type)]) for one in fields(Drilled) if one.name in known
            )
            if right and all(known.get(name) for name in ("client", "source", "status")):
                found.append(Drilled(**{"what": "", "place": "", "where": "", **known}))
    return found


def estimates(run: RunRow) -> Dict[str, Mapping[str, Any]]:
    """client -> what a restore of all of it would take, as verify.drill.Estimate wrote it."""
    found = run.summary.get("estimates")
    return {str(name): one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def remembered(catalog: Any, now_ns: int, days: float = DAYS) -> List[RunRow]:
    """The drills that still count, newest last."""
    since = now_ns - round(days * 86400 * clock.NS)
    return [run for run in catalog.runs(limit=RUNS, kind=KIND) if run.begun_ns >= since]


def due(catalog: Any, now_ns: int) -> bool:
    """Whether a night has passed since the last nightly drill, and since the first run: before, nothing was there."""
    before = now_ns - round(NIGHT * clock.NS)
    nights = [run for run in remembered(catalog, now_ns) if run.summary.get("nightly")]
    if nights:
        return nights[-1].begun_ns <= before
    runs = catalog.runs(limit=RUNS, kind="run")
    return bool(runs) and runs[0].begun_ns <= before


def newest(runs: List[RunRow]) -> Dict[Tuple[str, str], Drilled]:
    """(client, source) -> what the newest drill of it said that could tell."""
    found: Dict[Tuple[str, str], Drilled] = {}
    for run in runs:
        for one in of_run(run):
            if one.status in (PROVEN, FAILED):
                found[one.client, one.source] = one
    return found


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []
