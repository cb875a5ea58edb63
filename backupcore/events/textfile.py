"""A file of metrics for Prometheus, as the textfile collector of its node_exporter reads them.

Here live the options and the words of the file. It is put in place whole, so that nobody reads half of it, and anybody
may read it: it says how old dumps are, and nothing of what is in them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from pydantic import BaseModel, ConfigDict, field_validator

from .. import clock, files
from ..hookspecs import Event, EventError
from . import _secret

_WORTH = {"OK": 0, "WARN": 1, "FAIL": 2}
_KINDS = ("source-overdue", "copy-damaged", "holding-filling", "night-missing")


class TextfileOptions(BaseModel):
    """path: in the folder that the collector reads; the collector takes names that end in .prom."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str

    @field_validator("path")
    @classmethod
    def _named(cls, value: str) -> str:
        if not re.search(r"[^/]\.prom\Z", value):
            raise ValueError("does not end in .prom: the collector would not read it")
        return _secret.absolute(value)


def send(options: TextfileOptions, event: Event) -> None:
    """Writes how everything stands."""
    if event.kind == "test":
        check(options)
        return
    path = Path(options.path)
    try:
        files.clear_killed(path.parent, path.name + ".")
        files.replace(path, metrics(event.data).encode("utf-8", "replace"), 0o644)
    except OSError as error:
        check(options)  # knows the next step better
        raise EventError(f"{path}: {error.strerror}", _hint(path)) from None


def check(options: TextfileOptions) -> None:
    """Raises EventError when the file could not be written."""
    folder = Path(options.path).parent
    if not folder.is_dir():
        raise EventError(f"{folder} is no folder", f"install -d -o stowage -m 0755 {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EventError(f"{folder} cannot be written", _hint(Path(options.path)))


def _hint(path: Path) -> str:
    return f"let the user that runs stowage write there: setfacl -m u:stowage:rwx {path.parent}"


def metrics(data: Mapping[str, Any]) -> str:
    """The text of the file."""
    now = _seconds(data["looked"])
    troubles, run, out = data["troubles"], data["run"] or {}, _Page()
    out.add("watch_timestamp_seconds", "When stowage watch looked last.", [({}, now)])
    out.add("trouble", "How many things of a kind are wrong now.",
            [({"kind": kind}, sum(one["kind"] == kind for one in troubles)) for kind in _KINDS])  # fmt: skip
    for word, what in (("begun", "began"), ("ended", "ended")):
        if run.get(word):
            out.add(f"run_{word}_timestamp_seconds", f"When the last run {what}.", [({}, _seconds(run[word]))])
    if run.get("status"):
        out.add("run_status", "How it ended: 0 OK, 1 WARN, 2 FAIL.", [({}, _WORTH[run["status"]])])
    if run.get("bytes") is not None:
        out.add("run_stored_bytes", "How much it stored.", [({}, run["bytes"])])
    sources = [({"client": one["client"], "source": one["source"]}, one) for one in data["sources"]]
    out.add("source_dump_timestamp_seconds", "When the newest good dump began; none where there is none.",
            [(labels, round(now - one["age"])) for labels, one in sources if one["age"] is not None])  # fmt: skip
    out.add("source_rpo_seconds", "How old that may be.", [(labels, one["rpo"]) for labels, one in sources])
    late = {(one.get("client"), one.get("source")) for one in troubles if one["kind"] == "source-overdue"}
    out.add("source_overdue", "1: it is past its rpo.",
            [(labels, int((one["client"], one["source"]) in late)) for labels, one in sources])  # fmt: skip
    out.add("source_status", "How the report sees it: 0 OK, 1 WARN, 2 FAIL.",
            [(labels, _WORTH[one["status"]]) for labels, one in sources])  # fmt: skip
    disks = [({"path": one["path"]}, one) for one in data["holding"]]
    out.add("holding_usable", "0: the holding disk cannot be used.", [(d, int(one["usable"])) for d, one in disks])
    usable = [(labels, one) for labels, one in disks if one["usable"]]
    out.add("holding_used_bytes", "How much is on it, or not to be had.", [(d, one["used"]) for d, one in usable])
    out.add("holding_limit_bytes", "How much it may take.", [(d, one["limit"]) for d, one in usable])
    return "".join(out.lines)


class _Page:
    def __init__(self) -> None:
        self.lines: List[str] = []

    def add(self, name: str, told: str, values: Iterable[Tuple[Dict[str, str], Optional[float]]]) -> None:
        """A family of gauges."""
        found = [f"stowage_{name}{_labels(labels)} {value:.17g}\n" for labels, value in values]
        if found:
            self.lines += [f"# HELP stowage_{name} {told}\n", f"# TYPE stowage_{name} gauge\n", *found]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_quoted(value)}"' for key, value in labels.items()) + "}"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds(moment: str) -> int:
    return clock.parse_iso(moment) // clock.NS
