"""What targets took and cost, for the command line: a month, its forecast, and the same under another configuration.

Here lives what is asked of the catalog and the forecast, and the configuration that is tried out: a file of its own, or
one laid over the present. Reckoning is backupcore.cost. Nothing here opens a target or writes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple

from .. import clock
from ..catalog import spending
from ..cost import usage
from ..cost.usage import Month, Row
from ..errors import RequestError
from ..settings import Settings
from . import config, config_files
from .forecasting import Forecast, forecast

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True)
class Used:
    """A month. so_far: it lasts. counted: what targets were asked for in it is known of some of them."""

    month: Month
    by: str
    so_far: bool
    rows: Tuple[Row, ...]
    counted: bool


@dataclass(frozen=True)
class Change:
    """What another configuration would change at a target in a month: bytes at its end, and money by currency."""

    target: str
    bytes: int
    cost: Dict[str, float]
    bytes_then: int
    cost_then: Dict[str, float]

    @property
    def more(self) -> Dict[str, float]:
        """What it costs more then, by currency."""
        names = sorted({*self.cost, *self.cost_then})
        return {name: self.cost_then.get(name, 0.0) - self.cost.get(name, 0.0) for name in names}


def used(engine: Engine, name: Optional[str] = None, by: str = "target") -> Used:
    """A month, this one when none is named. Raises RequestError."""
    now = clock.now_ns()
    month = usage.month(name or spending.month_of(now), now)
    if month.begin_ns > now:
        raise RequestError(f"{month.name} is still to come", "stowage usage --forecast")
    stays = spending.stays_between(engine.catalog, month.begin_ns, month.until_ns)
    spent = {
        target: one for (target, when), one in spending.spent_by_month(engine.catalog).items() if when == month.name
    }
    prices = {target: one.price for target, one in engine.settings.targets.items()}
    rows = tuple(usage.rows(stays, spent, prices, month, by))
    return Used(month, by, month.begin_ns <= now < month.end_ns, rows, bool(spent))


def ahead(engine: Engine, now_ns: int, settings: Optional[Settings] = None) -> Forecast:
    """This month and the next to their ends, as things are or under other settings: what is compared has one now."""
    untold = frozenset(name for name, one in engine.drivers.of("source").items() if not one.estimate)
    return forecast(settings or engine.settings, engine.catalog, now_ns, untold)


def tried_out(engine: Engine, file: str) -> Settings:
    """The settings of a file that is tried out. With `holding:` it is a configuration of its own (with the present
    clients when it has none), else it is laid over the present one. Raises ConfigError."""
    other = config_files.read(file)
    present = config_files.read(engine.settings.file)
    places = {**present.places, **other.places}
    if "holding" not in other.content:
        content = _laid(present.content, other.content)
    else:
        content = {**other.content, "clients": other.content.get("clients") or present.content.get("clients")}
    wrong = config_files.Wrong(places)
    wrong.found += other.wrong.found
    written = config_files.Written(Path(file).absolute(), content, places, wrong)
    found = config.load(file, engine.drivers, written).settings
    return replace(found, state=engine.settings.state, keys=engine.settings.keys)


def _laid(below: Any, above: Any) -> Any:
    """Mappings key by key, nothing for what is taken away; of another type, or no mapping: the one above."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if "type" in above and above["type"] != below.get("type", above["type"]):
        return above
    found = {**below}
    for key, value in above.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _laid(below.get(key), value)
    return found


def changes(now: Sequence[Row], then: Sequence[Row]) -> Tuple[Change, ...]:
    """Target by target, what changes most first."""
    before, after = ({row.name: row for row in rows} for rows in (now, then))
    found = []
    for name in {**before, **after}:
        one, other = before.get(name), after.get(name)
        found.append(
            Change(name, one.bytes if one else 0, one.money if one else {}, other.bytes if other else 0,
                   other.money if other else {})
        )  # fmt: skip
    size = {one.target: max((abs(each) for each in one.more.values()), default=0.0) for one in found}
    return tuple(sorted(found, key=lambda one: (-size[one.target], -abs(one.bytes_then - one.bytes), one.target)))
