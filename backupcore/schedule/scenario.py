"""Scenarios of the simulator: the JSON formats stowage-sched/1 and /2, read strictly.

Here lives what a scenario may hold and the words for what is wrong with one. What the numbers mean (the model of the
bytes) is in `model`, the replay in `simulate`. The formats are described in docs/scheduler.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Union

from ..errors import RequestError

FORMATS = ("stowage-sched/1", "stowage-sched/2")
MAX_FILE = 512 * 1024**2
MAX_DAYS = 3660
MAX_PARTS = 1000
MAX_WORK = 20_000_000  # nights times units: some 500 MB
# more bytes than anybody has: sums of them are still exact enough as floats
MAX_BYTES = 1e18

Scenario = Dict[str, Any]
_Check = Callable[[Any, str], None]


def read(path: Union[str, Path]) -> Scenario:
    """The scenario in a file, checked. Raises RequestError that names the key."""
    return check(load(path, "scenario"), str(path))


def load(path: Union[str, Path], what: str) -> Any:
    """The JSON in a file of at most 512 MiB, unchecked. Raises RequestError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise RequestError(f"cannot read the {what} {path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise RequestError(f"the {what} {path} is larger than 512 MiB")
    try:
        return json.loads(data, object_pairs_hook=_once)
    except _Twice as error:
        raise RequestError(f"{path}: the key {error.args[0]!r} stands twice in one object") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON: {error}") from None


def check(data: Any, name: str = "scenario") -> Scenario:
    """data itself, when it is a scenario. Raises RequestError that names the key."""
    try:
        _check_top(data)
    except _Wrong as error:
        hint = "the format is described in docs/scheduler.md"
        raise RequestError(f"{name}: {error}", hint) from None
    return data


class _Wrong(Exception):
    """What is wrong and where."""


class _Twice(Exception):
    """A key stands twice in an object."""


def _once(pairs: List[Any]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key)
        found[key] = value
    return found


# -- what a value may be: each takes (value, where) and raises _Wrong


def _number(low: float, high: float) -> _Check:
    def look(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _Wrong(f"{where} must be a number, not {_show(value)}")
        if not low <= value <= high:
            raise _Wrong(f"{where} must be from {low:g} to {high:g}, not {_show(value)}")

    return look


def _whole(low: int, high: int) -> _Check:
    def look(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _Wrong(f"{where} must be a whole number, not {_show(value)}")
        if not low <= value <= high:
            raise _Wrong(f"{where} must be from {low} to {high}, not {_show(value)}")

    return look


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise _Wrong(f"{where} must be a text of 1 to 200 characters, not {_show(value)}")


def _label(value: Any, where: str) -> None:
    if isinstance(value, str):
        _text(value, where)
    else:
        _number(-1e18, 1e18)(value, where)


def _maybe(inner: _Check) -> _Check:
    def look(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return look


def _list_of(inner: _Check, low: int, high: int) -> _Check:
    def look(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise _Wrong(f"{where} must be a list, not {_show(value)}")
        if not low <= len(value) <= high:
            count = str(low) if low == high else f"{low} to {high}"
            raise _Wrong(f"{where} must have {count} entries, not {len(value)}")
        for number, one in enumerate(value):
            inner(one, f"{where}[{number}]")

    return look


_BYTES = _number(0, MAX_BYTES)
_SHARE = _number(0, 1)
_TOP: Mapping[str, _Check] = {
    "format": lambda value, where: None,
    "name": _text,
    "family": _label,
    "seed": _label,
    "days": _whole(1, MAX_DAYS),
    "warmup": _whole(0, MAX_DAYS),
    "cycle": _whole(1, MAX_DAYS),
    "grace": _whole(0, MAX_DAYS),
    "limit": lambda value, where: None,
    "max_level": _whole(0, 9),
    "max_chain": _maybe(_whole(1, MAX_DAYS)),
    "outages": lambda value, where: None,
    "clients": lambda value, where: None,
    "sources": lambda value, where: None,
}
_TOP_NEEDS = ("format", "name", "days", "warmup", "cycle", "grace", "max_level", "clients", "sources")
_SOURCE: Mapping[str, _Check] = {
    "id": _text,
    "client": _text,
    "size": _BYTES,
    "growth": _number(-MAX_BYTES, MAX_BYTES),
    "change": _SHARE,
    "week": _maybe(_list_of(_number(0, 1000), 7, 7)),
    "hot": _SHARE,
    "overhead": _BYTES,
    "add": _whole(0, MAX_DAYS),
    "remove": _maybe(_whole(0, MAX_DAYS)),
    "priority": _whole(0, 100),
    "cycle": _maybe(_whole(1, MAX_DAYS)),
}
_SOURCE_NEEDS = ("id", "client", "size")
_PART: Mapping[str, _Check] = {"share": _SHARE, "change": _SHARE}


def _check_top(data: Any) -> None:
    _keys(data, "a scenario", _TOP, _TOP_NEEDS, name_where=False)
    if data["format"] not in FORMATS:
        raise _Wrong(f"format must be {' or '.join(FORMATS)}, not {_show(data['format'])}")
    days = data["days"]
    if data["warmup"] >= days:
        raise _Wrong(f"warmup must be less than days ({days}), not {data['warmup']}")
    night = _whole(0, days - 1)
    _list_of(night, 0, days)(data.get("outages", []), "outages")
    if all(night in data.get("outages", []) for night in range(data["warmup"], days)):
        raise _Wrong("outages leaves no night after the warmup")
    if isinstance(data.get("limit"), list):
        _list_of(_maybe(_BYTES), days, days)(data["limit"], "limit")
    else:
        _maybe(_BYTES)(data.get("limit"), "limit")
    _list_of(lambda value, where: None, 1, 10**6)(data["clients"], "clients")
    _list_of(lambda value, where: None, 1, 10**6)(data["sources"], "sources")
    clients: Set[str] = set()
    for number, client in enumerate(data["clients"]):
        _check_client(client, f"clients[{number}]", days, clients)
    units: Set[str] = set()
    for number, source in enumerate(data["sources"]):
        _check_source(source, f"sources[{number}]", data["format"] == FORMATS[1], clients, units)
    if len(units) * days > MAX_WORK:
        raise _Wrong(f"{days} days times {len(units)} sources and parts are more than {MAX_WORK}")


def _check_client(client: Any, where: str, days: int, known: Set[str]) -> None:
    _keys(client, where, {"id": _text, "avail": lambda value, where: None}, ("id", "avail"))
    if client["id"] in known:
        raise _Wrong(f"{where}.id: {_show(client['id'])} stands twice")
    known.add(client["id"])
    avail = client["avail"]
    if not isinstance(avail, str) or len(avail) != days or set(avail) - {"0", "1"}:
        raise _Wrong(f"{where}.avail must be {days} characters 0 or 1, one for each night")


def _check_source(source: Any, where: str, second: bool, clients: Set[str], units: Set[str]) -> None:
    known = dict(_SOURCE, parts=_list_of(_check_part, 1, MAX_PARTS)) if second else _SOURCE
    _keys(source, where, known, _SOURCE_NEEDS)
    if source["client"] not in clients:
        raise _Wrong(f"{where}.client: there is no client {_show(source['client'])}")
    if source.get("remove") is not None and source["remove"] <= source.get("add", 0):
        raise _Wrong(f"{where}.remove must be after add ({source.get('add', 0)}), not {source['remove']}")
    parts = source.get("parts")
    if parts is None:
        if "change" not in source:
            raise _Wrong(f"{where} has no key 'change'")
    else:
        total = math.fsum(part["share"] for part in parts)
        if abs(total - 1) > 1e-3:  # shares rounded to a few digits are welcome
            raise _Wrong(f"{where}.parts: the shares must add up to 1, not {total:.6g}")
    for name in unit_names(source["id"], parts):
        if name in units:
            raise _Wrong(f"{where}.id: {_show(name)} stands twice")
        units.add(name)


def _check_part(part: Any, where: str) -> None:
    _keys(part, where, _PART, ("share", "change"))


def unit_names(source: str, parts: Optional[Sequence[Any]]) -> List[str]:
    """The names under which a source or its parts are planned."""
    return [source] if parts is None else [f"{source}#{number}" for number in range(len(parts))]


def _keys(data: Any, where: str, known: Mapping[str, _Check], needs: Sequence[str], name_where: bool = True) -> None:
    if not isinstance(data, dict):
        raise _Wrong(f"{where} must be an object, not {_show(data)}")
    for key in needs:
        if key not in data:
            raise _Wrong(f"{where} has no key {key!r}")
    for key, value in data.items():
        look = known.get(key)
        if look is None:
            raise _Wrong(f"{where} has an unknown key {_show(key)}")
        look(value, f"{where}.{key}" if name_where else key)


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
