"""`stowage simulate`: replays a scenario through the planner of the nightly run and prints the figures.

Needs no configuration. `--json` alone prints the figures as JSON, as everywhere; `--json OUT` writes the result (format
stowage-sched, every dump of every night) to a file and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from .. import text
from ..errors import RequestError
from . import _output

HEARTBEAT = 60.0
PLANNERS = ("stowage", "amanda")
# figure -> (what it is called, what it says); the order of the table
FIGURES = {
    "peak_bytes": ("highest night", "after the warm-up, on night {peak_night}"),
    "mean_bytes": ("mean night", "after the warm-up"),
    "peak_over_mean": ("highest / mean", "1 is an even load"),
    "p95_over_mean": ("95 % / mean", "the night that 5 % exceed"),
    "night0_over_mean": ("first night / mean", "when nothing has a full yet"),
    "first_peak_over_mean": ("warm-up / mean", "the highest night of the warm-up"),
    "extra_full": ("extra fulls", "bytes of fulls beyond one a cycle"),
    "late_hard": ("late", "fulls past their cycle without excuse; must be 0"),
    "late": ("late, all", "source-nights past the cycle, those of absent clients too"),
    "missed": ("missed", "a client was there and nothing was dumped; must be 0"),
    "unprotected": ("unprotected", "source-nights before the first full"),
    "chain_max": ("longest chain", "dumps that a restore needs"),
    "chain_viol": ("chains too long", "longer than max_chain; must be 0"),
    "capacity_failures": ("over the limit", "dumps that did not fit; must be 0"),
    "errors": ("illegal", "dumps that cannot be; must be 0"),
    "plan_s": ("slowest plan", "of a night, in seconds"),
}
BYTES = ("peak_bytes", "mean_bytes")
MUST_BE_ZERO = ("late_hard", "missed", "chain_viol", "capacity_failures", "errors")


class _Json(argparse.Action):
    """--json: figures as JSON on standard output; --json OUT: the result to a file."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Optional[str] = None) -> None:
        if values is None:
            namespace.json = True
        else:
            namespace.out = values


def add(parser: argparse.ArgumentParser) -> None:
    """The scenario, the planner, where the result goes."""
    parser.add_argument("scenario", metavar="SCENARIO.json", nargs="?", help="format stowage-sched/1 or /2")
    parser.add_argument(
        "--planner", choices=PLANNERS, default="stowage", help="amanda: Amanda's, to compare with (default: stowage)"
    )
    parser.add_argument(
        "--errors", metavar="SHARE", type=float, default=0.0, help="estimates are wrong by up to this share, e.g. 0.2"
    )
    parser.add_argument(
        "--json", metavar="OUT", nargs="?", action=_Json, default=argparse.SUPPRESS,
        help="write the result to OUT; without OUT: print the figures as JSON",
    )  # fmt: skip
    parser.set_defaults(out=None)


def run(args: argparse.Namespace, _open_engine: Any) -> _output.Answer:
    """Replays, writes, tells."""
    from ..schedule import metrics, scenario, simulate

    path, out = args.scenario, args.out
    if path is None and out is not None:  # simulate --json SCENARIO: the option took what was meant as the scenario
        path, out, args.json = out, None, True
    if path is None:
        raise RequestError("the scenario is missing", "stowage simulate SCENARIO.json")
    if not 0 <= args.errors < 1:
        raise RequestError(f"--errors is a share from 0 to less than 1, not {args.errors:g}")
    given = scenario.read(path)
    if out is not None:
        _check_out(out, path)
    with _Progress(args.json) as progress:
        result = simulate.replay(given, args.planner, progress=progress, errors=args.errors)
    figures = metrics.score(given, result)
    if out is not None:
        _write(out, result)
    told = {key: value for key, value in figures.items() if value is not None}
    bad = [key for key in MUST_BE_ZERO if figures[key]]
    return _output.Answer(
        data={**told, **({"result": os.path.abspath(out)} if out is not None else {})},
        lines=_lines(given, args.planner, figures),
        status="WARN" if bad else "OK",
        notes=[f"{FIGURES[key][0]}: {figures[key]}" for key in bad],
    )


def _lines(given: Dict[str, Any], planner: str, figures: Dict[str, Any]) -> List[str]:
    rows = []
    for key, (name, meaning) in FIGURES.items():
        value = figures[key]
        if value is not None:
            told = text.size(value) if key in BYTES else str(value)
            rows.append([name, told, meaning.format(**figures)])
    count, days = len(given["sources"]), given["days"]
    head = f"{text.escape(given['name'])}, planner {planner}: {count} sources, {days} nights, cycle {given['cycle']}"
    return [head, *_output.table(("figure", "value", "meaning"), rows)]


def _check_out(out: str, path: str) -> None:
    """Before the work: the result must not go over a scenario, and there must be a folder for it."""
    from ..schedule import scenario

    if os.path.isdir(out) or not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise RequestError(f"cannot write the result to {out}: no folder, or a folder itself")
    if not os.path.lexists(out):
        return
    if os.path.samefile(out, path):
        raise RequestError(f"--json {out} would overwrite the scenario")
    try:
        old = scenario.load(out, "result")
    except RequestError:
        return
    if isinstance(old, dict) and "format" in old:
        raise RequestError(f"--json {out} would overwrite a scenario")


def _write(out: str, result: Dict[str, Any]) -> None:
    new = f"{out}.{os.getpid()}.new"
    try:
        Path(new).write_text(json.dumps(result, separators=(",", ":")) + "\n", "utf-8")
        os.replace(new, out)
    except OSError as error:
        Path(new).unlink(missing_ok=True)
        raise RequestError(f"cannot write the result to {out}: {error.strerror}") from None


class _Progress:
    """A bar over the nights on a terminal, a line a minute elsewhere, nothing beside JSON; on standard error."""

    def __init__(self, as_json: bool):
        self.silent = as_json
        self.bar: Any = None
        self.task: Any = None
        self.told = time.monotonic()

    def __enter__(self) -> Optional[Callable[[int, int], None]]:
        if self.silent:
            return None
        if not sys.stderr.isatty():
            return self._line
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("night {task.completed:.0f} of {task.total:.0f}"),
            BarColumn(bar_width=40),
            TimeElapsedColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
            transient=True,
            refresh_per_second=4,
        )
        self.bar.start()
        return self._move

    def __exit__(self, *_exc: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _move(self, done: int, nights: int) -> None:
        if self.task is None:
            self.task = self.bar.add_task("", total=nights)
        self.bar.update(self.task, completed=done)

    def _line(self, done: int, nights: int) -> None:
        now = time.monotonic()
        if now - self.told >= HEARTBEAT:
            _output.say(f"night {done} of {nights}")
            self.told = now
