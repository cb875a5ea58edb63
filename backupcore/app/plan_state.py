"""What planning keeps in the state folder: planner.json, and which levels somebody asked for once.

Here lives reading and writing of it. planner.json makes nights even and is no more than that: when it is missing,
damaged, of another version or of another server, planning goes on without it. A level that was asked for once is a
file of its own, made and removed in one step, since people ask while a night is at work.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Tuple

from .. import files
from ..catalog import places
from ..ids import is_name
from ..schedule.memory import Memory

FORMAT = "stowage-plan/1"
MOST = 1 << 28  # bytes: a hundred thousand sources are 20 MB


@dataclass(frozen=True)
class Kept:
    """What one night leaves to the next.

    night: the last one that was planned. runs: the runs of everything that were begun in it. since: unit -> the night
    it was first known. away: the clients that could not be reached. memory: the planner's own. ended: unit -> level,
    bytes and night of its last dump, where the limits of a night ended it.
    """

    night: int = 0
    runs: Tuple[str, ...] = ()
    since: Mapping[str, int] = field(default_factory=dict)
    away: Tuple[str, ...] = ()
    memory: Memory = Memory()
    ended: Mapping[str, Tuple[int, int, int]] = field(default_factory=dict)


def read(state: Path) -> Kept:
    """What is kept; nothing when that cannot be read."""
    try:
        path = places.planner_file(state)
        if path.stat().st_size > MOST:
            return Kept()
        raw = json.loads(path.read_bytes())
        if raw["format"] != FORMAT:
            return Kept()
        return Kept(
            night=_whole(raw["night"]),
            runs=tuple(_word(one) for one in raw["runs"]),
            since={_word(unit): _whole(night) for unit, night in raw["since"].items()},
            away=tuple(_word(one) for one in raw["away"]),
            memory=Memory.from_json(json.dumps(raw["memory"])),
            ended={_word(unit): _three(one) for unit, one in raw.get("ended", {}).items()},
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Kept()


def write(state: Path, kept: Kept) -> None:
    """Keeps it, whole or not at all. Raises OSError."""
    value = {
        "format": FORMAT, "night": kept.night, "runs": list(kept.runs), "since": dict(kept.since),
        "away": list(kept.away), "memory": json.loads(kept.memory.to_json()),
        **({"ended": {unit: list(one) for unit, one in kept.ended.items()}} if kept.ended else {}),
    }  # fmt: skip
    files.make_folder(state)
    files.replace(places.planner_file(state), json.dumps(value, separators=(",", ":")).encode())


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("no night")
    return value


def _three(value: Any) -> Tuple[int, int, int]:
    level, size, night = value
    return _whole(level), _whole(size), _whole(night)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no name")
    return value


def unit_id(client: str, source: str, segment: str = "") -> str:
    """`client:source`, `client:source/segment`: neither : nor / is in a name."""
    return f"{client}:{source}" + (f"/{segment}" if segment else "")


def forced(state: Path) -> Dict[Tuple[str, str], int]:
    """(client, source) -> the level that was asked for once."""
    found: Dict[Tuple[str, str], int] = {}
    try:
        names = sorted(os.listdir(places.forced_folder(state)))
    except OSError:
        return found
    for name in names:
        client, colon, source = name.partition(":")
        if not colon or not is_name(client) or not is_name(source):
            continue
        try:
            text = (places.forced_folder(state) / name).read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if len(text) == 1 and text in "0123456789":
            found[client, source] = int(text)
    return found


def force(state: Path, client: str, source: str, level: int) -> None:
    """The next run makes this level of a source. Raises OSError."""
    folder = places.forced_folder(state)
    files.make_folder(folder)
    files.replace(folder / f"{client}:{source}", f"{level}\n".encode())


def forget(state: Path, done: Iterable[Tuple[str, str]]) -> None:
    """These are no longer asked for."""
    for client, source in done:
        try:
            os.unlink(places.forced_folder(state) / f"{client}:{source}")
        except OSError:
            pass
