"""`stowage drivers`: the kinds of sources, targets and events at hand, and what could not be loaded."""

from __future__ import annotations

import argparse
from typing import Any

from .. import text
from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """No options of its own: it also works without any configuration."""


def run(_args: argparse.Namespace, _open_engine: Any) -> _output.Answer:
    """All drivers."""
    from ..app import drivers

    found = drivers.load()
    rows = sorted((one.kind, one.driver.type, one.driver.summary, one.origin) for one in found.loaded)
    lines = _output.table(("kind", "type", "what it is", "from"), [list(row) for row in rows])
    lines += [f"WARN not loaded: {text.escape(line)}" for line in found.broken]
    return _output.Answer(
        data={
            "drivers": [dict(zip(("kind", "type", "summary", "origin"), row)) for row in rows],
            "broken": list(found.broken),
        },
        lines=lines,
        next=["stowage check"],
        status="WARN" if found.broken else "OK",
    )
