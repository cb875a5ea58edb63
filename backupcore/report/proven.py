"""The last line of the report: of how many clients something was restored of late, and what the longest restore takes.

Here lives what the catalog says of drills; drills are made in app/drilling.py, and estimates with them, so that a
report only reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .. import clock, text
from ..catalog import drills
from ..settings import Settings


@dataclass(frozen=True)
class Proven:
    """clients: all that have sources; proven: of how many of them something came back within the days, and no source
    failed the last time.

    failed: sources whose newest drill failed. sealed: clients that nobody could open. longest: the estimate of the
    client that would take longest to restore, None when none is known.
    """

    clients: int = 0
    proven: int = 0
    failed: Tuple[drills.Drilled, ...] = ()
    sealed: int = 0
    longest: Optional[Mapping[str, Any]] = None
    days: int = drills.DAYS

    @property
    def line(self) -> str:
        """`proven: 58 of 60 clients restored within 30 days; db2 est. 1 h 50 from cloud, $3.10`; '' without clients."""
        if not self.clients:
            return ""
        clients = "client" if self.clients == 1 else "clients"
        line = f"proven: {self.proven} of {self.clients} {clients} restored within {self.days} days"
        if self.sealed:
            line += f" ({self.sealed} sealed, no private key here)"
        if self.longest:
            line += "; " + estimated(str(self.longest.get("client", "")), self.longest)
        return line

    def as_dict(self) -> Dict[str, Any]:
        """JSON-ready."""
        return {
            "line": self.line, "clients": self.clients, "proven": self.proven, "days": self.days,
            "sealed": self.sealed, "failed": [one.as_dict() for one in self.failed],
            "longest": dict(self.longest) if self.longest else None,
        }  # fmt: skip


def read(settings: Settings, catalog: Any, now_ns: int) -> Proven:
    """What drills have proven until now."""
    clients = {
        client.name: set(client.sources) for client in settings.clients.values()
        if client.state != "retired" and client.sources
    }  # fmt: skip
    runs = drills.remembered(catalog, now_ns) if clients else []
    proven, sealed = set(), set()
    for run in runs:
        for one in drills.of_run(run):
            if one.client in clients and one.status in (drills.PROVEN, drills.SEALED):
                (proven if one.status == drills.PROVEN else sealed).add(one.client)
    last = drills.newest(runs)
    failed = tuple(
        one for (client, source), one in sorted(last.items())
        if one.status == drills.FAILED and source in clients.get(client, ())
    )  # fmt: skip
    proven -= {one.client for one in failed}
    return Proven(len(clients), len(proven), failed, len(sealed - proven), _longest(runs, clients))


def _longest(runs: List[Any], clients: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    latest: Dict[str, Dict[str, Any]] = {}
    for run in runs:
        for client, one in drills.estimates(run).items():
            if client in clients:
                latest[client] = {**one, "client": client}
    known = [one for one in latest.values() if isinstance(one.get("seconds"), (int, float))]
    return max(known, key=lambda one: (one["seconds"], one["client"])) if known else None


def estimated(client: str, estimate: Mapping[str, Any]) -> str:
    """`db2 est. 1 h 50 from cloud, $3.10`."""
    seconds = estimate.get("seconds")
    told = text.duration(seconds) if isinstance(seconds, (int, float)) else "unknown"
    places = ", ".join(str(one) for one in estimate.get("places") or ())
    prices = estimate.get("money")
    cost = " + ".join(money(one, name) for name, one in sorted(prices.items())) if isinstance(prices, dict) else ""
    return text.escape(f"{client} est. {told} from {places}" + (f", {cost}" if cost else ""))


def money(amount: float, currency: str) -> str:
    """`$3.10`, `3.10 EUR`; what is less than a hundredth is said so."""
    word = currency[:1].isalnum()
    told = f"{amount:,.2f}" if amount >= 0.005 or not amount else "0.01"
    less = "< " if told == "0.01" and 0 < amount < 0.005 else ""
    return less + (f"{told} {currency}" if word else f"{currency}{told}")


def trouble(proven: Optional[Proven]) -> List[str]:
    """What could not be restored, each as `WHAT -> NEXT STEP`."""
    return [
        f"{one.client}:{one.source} drill from {one.place} of {clock.local(one.when_ns)} failed: "
        f"{text.escape(one.message)} -> {text.escape(one.hint) or 'stowage drill --client ' + one.client}"
        for one in proven.failed
    ] if proven else []  # fmt: skip
