"""`stowage report`: the last night, the worst first, good rows folded."""

from __future__ import annotations

import argparse
from typing import Any

from . import _output


def add(parser: argparse.ArgumentParser) -> None:
    """--run, --all."""
    parser.add_argument("--run", metavar="RUN", help="this run instead of the last one (stowage list runs)")
    parser.add_argument("--all", action="store_true", help="the good rows one by one too")


def run(args: argparse.Namespace, open_engine: Any) -> _output.Answer:
    """The report as a table."""
    report = open_engine().report(args.run)
    return _output.Answer(
        data=report.as_dict(),
        lines=_text(report, args.all),
        next=report.next or ["stowage find NAME", "stowage restore CLIENT:/PATH"],
        status=report.status,
        warnings=report.warnings,
    )


def _text(report: Any, everything: bool) -> Any:
    from ..report import text as report_text  # asked for only when the lines are written

    yield report_text.render(report, everything)
