"""`stowage status`: what runs now, else how the last run ended."""

from __future__ import annotations

import argparse
import time
from typing import Any, Dict, List

from .. import text
from . import _output, _progress


def add(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(_args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """One line when nothing runs, a table when something does."""
    engine = open_engine()
    now = engine.status()
    if now and now.get("alive"):
        return _output.Answer({"running": now}, _running(now), ["stowage status"])
    report = engine.report()
    return _output.Answer(
        {**report.as_dict(), "running": None},
        [report.headline],
        ["stowage report"] if report.run else ["stowage run"],
        report.status,
        report.warnings,
    )


def _running(now: Dict[str, Any]) -> List[str]:
    dumps = [one for one in now.get("dumps", ()) if isinstance(one, dict)]
    done = sum(1 for one in dumps if one.get("phase") in ("done", "failed", "verified"))
    begun = now.get("begun_ns")
    if isinstance(begun, int):
        took = text.duration(max(0.0, time.time() - begun / 1e9))
        lines = [f"run {now.get('run')} is at work for {took} (pid {now.get('pid')}): {done} of {len(dumps)} done"]
    else:
        lines = ["a run is at work"]
    rows = []
    for one in dumps:
        count, total = int(one.get("bytes") or 0), one.get("total")
        share = f"{min(99, 100 * count // total)} %" if total and one.get("phase") == "dumping" else ""
        begins = one.get("not_before_ns")
        phase = f"begins at {_progress.begins(one)}" if isinstance(begins, int) else one.get("phase", "")
        rows.append([f"{one.get('client')}:{one.get('source')}", phase, text.size(count), share])
    return [text.escape(line) for line in lines + _output.table(("source", "phase", "size", ""), rows)]
