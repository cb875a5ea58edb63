"""How a source is cut into segments, kept from night to night.

Here lives the file, `<state>/segments/<client>/<source>.json`, and making it again from what the segments' dumps tell;
where a source is cut is schedule.segments, when app.cutting. Paths stand in it as in agent.json: bytes that are no
UTF-8 as surrogates.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

from .. import files, ids
from ..catalog.records import DumpRow
from ..errors import StowageError
from ..image.index import check_path
from ..schedule.segments import MOST, Segment
from ..settings import Settings

SCHEMA = 1
LIMIT = 64 << 20


@dataclass(frozen=True)
class Share:
    """A segment. folders: its own; of the last one those of all others. size: bytes of a full when it was cut."""

    name: str
    folders: Tuple[bytes, ...]
    size: int = 0

    @property
    def rest(self) -> bool:
        """Whether it has all that no other one has."""
        found = ids.parse_segment(self.name)
        return found is not None and found.rest

    def request(self) -> Dict[str, Any]:
        """What an agent is asked for."""
        return {"folders": [os.fsdecode(path) for path in self.folders], "rest": self.rest}


@dataclass(frozen=True)
class Cut:
    """The segments of a source, the last one last. night: when it was made. wanted: bytes of a segment it was for.

    before: the units ("" is the whole source) that go on until each segment has a full.
    """

    shares: Tuple[Share, ...]
    night: int = 0
    wanted: float = 0.0
    before: Tuple[str, ...] = ("",)
    leaving: Tuple[Share, ...] = ()

    def share(self, name: str) -> Optional[Share]:
        """The segment of that name."""
        return next((one for one in (*self.shares, *self.leaving) if one.name == name), None)

    @property
    def names(self) -> Tuple[str, ...]:
        """Of its segments."""
        return tuple(one.name for one in self.shares)


def make(segments: Sequence[Segment], night: int, wanted: float) -> Cut:
    """A new cut, its segments with names that no other cut of the source has."""
    token, count = secrets.token_hex(2), len(segments)
    folders = tuple(sorted(path for one in segments for path in one.folders))
    shares = [
        Share(f"s{number}of{count}-{token}", tuple(one.folders) if number < count else folders, one.size)
        for number, one in enumerate(segments, 1)
    ]
    return Cut(tuple(shares), night, wanted)


def place(settings: Settings, client: str, source: str) -> Path:
    """The file of a source's cut."""
    return Path(settings.state) / "segments" / client / f"{source}.json"


def keep(settings: Settings, client: str, source: str, cut: Cut) -> None:
    """Keeps a cut for good. Raises OSError."""
    path = place(settings, client, source)
    files.make_folder(path.parent)
    shares = [
        {"name": one.name, "folders": [os.fsdecode(path) for path in one.folders], "size": one.size}
        for one in cut.shares
    ]
    value = {"schema": SCHEMA, "night": cut.night, "wanted": cut.wanted, "before": list(cut.before), "segments": shares}
    if cut.before != ("",):  # their folders are needed as long as they go on
        known = read(settings, client, source)
        old = [] if known is None else [one for one in (*known.shares, *known.leaving) if one.name in cut.before]
        value["leaving"] = [
            {"name": one.name, "folders": [os.fsdecode(path) for path in one.folders], "size": one.size} for one in old
        ]
    files.replace(path, json.dumps(value, indent=1).encode("ascii"))


def read(settings: Settings, client: str, source: str) -> Optional[Cut]:
    """The cut of a source, None when there is none, or none that can be read."""
    try:
        with open(place(settings, client, source), "rb") as file:
            data = file.read(LIMIT + 1)
        value = json.loads(data)
        if len(data) > LIMIT or value["schema"] != SCHEMA:
            return None
        shares = tuple(_share(one["name"], one["folders"], one["size"]) for one in value["segments"])
        before = tuple(str(name) for name in value["before"])
        leaving = tuple(_share(one["name"], one["folders"], one["size"]) for one in value.get("leaving", ()))
        return _checked(Cut(shares, int(value["night"]), float(value["wanted"]), before, leaving))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def wanted(settings: Settings, client: str, source: str, name: str) -> Share:
    """The segment of that name that is to be dumped. Raises StowageError."""
    found = read(settings, client, source)
    share = found.share(name) if found is not None else None
    if share is None:  # the next plan makes it again
        raise StowageError(f"{place(settings, client, source)} does not say what segment {name} is", "stowage run")
    return share


def current(settings: Settings, catalog: Any, client: str, source: str) -> Optional[Cut]:
    """The cut by which a source is dumped: the one that is kept; when that was lost, the one that its dumps tell, kept
    again. None when it is dumped whole."""
    found = read(settings, client, source)
    if found is not None:
        return found
    found = of_dumps(catalog.dumps(client, source))
    if found is not None:
        try:
            keep(settings, client, source, found)
        except OSError:
            return None  # nothing could be dumped by it: the whole source is, until there is room
    return found


def of_dumps(rows: Iterable[DumpRow]) -> Optional[Cut]:
    """The cut of a source by what its segments' dumps tell: the newest of which all segments have one."""
    found: Dict[str, Dict[str, DumpRow]] = {}
    for row in rows:
        name = ids.parse_segment(row.segment)
        if name is not None and row.options.get("folders"):
            found.setdefault(name.cut, {})[row.segment] = row
    whole = []
    for shares in found.values():
        try:
            made = [
                _share(name, shares[name].options["folders"], 0)
                for name in sorted(shares, key=lambda name: ids.parse_segment(name).number)
            ]
            cut = _checked(Cut(tuple(made)))
        except (ValueError, TypeError):
            continue
        if cut is not None:
            whole.append((max(row.begun_ns for row in shares.values()), cut))
    return max(whole, key=lambda one: one[0])[1] if whole else None


def _share(name: Any, folders: Any, size: Any) -> Share:
    if not isinstance(folders, list) or not isinstance(size, int) or ids.parse_segment(name) is None:
        raise ValueError(name)
    paths = tuple(os.fsencode(one) for one in folders)
    if not paths or not all(path != b"." and check_path(path) for path in paths):
        raise ValueError(name)
    return Share(name, paths, size)


def _checked(cut: Cut) -> Optional[Cut]:
    """cut, when its segments are all of one source, and nothing is in two of them."""
    names = [ids.parse_segment(one.name) for one in cut.shares]
    count = len(names)
    if not 1 < count <= MOST or any(name is None for name in names) or len({name.cut for name in names}) != 1:
        return None
    if [(name.number, name.count) for name in names] != [(number, count) for number in range(1, count + 1)]:
        return None
    own = [path for one in cut.shares[:-1] for path in one.folders]
    if len(own) != len(set(own)) or sorted(own) != sorted(cut.shares[-1].folders):
        return None
    return cut
