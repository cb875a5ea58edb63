"""How a report looks as plain text, on a terminal and in mail: headline, the worst first, good rows folded."""

from __future__ import annotations

from collections import Counter
from typing import List, Sequence

from .. import clock, text
from ..catalog.records import OK
from . import planned
from .night import Report, SourceLine, count

FOLD = 10  # copies older than promised that are told of one target


def render(report: Report, everything: bool = False) -> str:
    """The report as lines. everything: good rows one by one too."""
    parts = [report.headline]
    rows = [_row(line) for line in report.lines if line.status != OK or line.message or everything]
    rows += [[line.status, line.target, "", "", "", "", _told(line.message, line.hint)]
             for line in report.targets if line.status != OK]  # fmt: skip
    rows += _promises(report)
    rows += [["FAIL", "", "", "", "", "", report.stopped]] if report.stopped else []
    rows += [["WARN", "", "", "", "", "", note] for note in report.notes]
    folded = [line for line in report.lines if line.status == OK and not line.message]
    if folded and not everything:
        what = f"{count(len({line.client for line in folded}), 'client')}, {count(len(folded), 'source')}"
        oldest = max(line.age or 0 for line in folded)
        rows.append(["OK", what, "", text.size(sum(one.bytes for one in folded)),
                     text.duration(sum(one.seconds for one in folded)), f"<= {text.duration(oldest)}", ""])  # fmt: skip
    if rows:
        rows.sort(key=lambda row: {"FAIL": 0, "WARN": 1}.get(row[0], 2))
        parts += ["", table(("", "source", "level", "size", "took", "newest", "what"), rows)]
    for line in report.targets:
        if line.status == OK:
            some = f"{line.verified} of {line.verified} newest dumps have a verified copy"
            told = [some if line.verified else "no policy sends one of the newest dumps there", line.message]
            parts.append(f"{line.target}: " + "; ".join(filter(None, told)))
    parts += planned.lines(report.plan)
    parts += report.pruned
    if report.run is not None:
        ended = clock.local(report.run.ended_ns) if report.run.ended_ns else "not ended"
        parts.append(f"run {report.run.id}: {clock.local(report.run.begun_ns)} - {ended}")
    if report.proven is not None and report.proven.line:
        parts.append(report.proven.line)
    return "\n".join(parts)


def _promises(report: Report) -> List[List[str]]:
    """The copies that are older than promised, the worst of each target."""
    rows, seen = [], Counter[str]()
    for one in report.broken:
        seen[one.target] += 1
        if seen[one.target] <= FOLD:
            age = "never" if one.age is None else text.duration(one.age)
            rows.append(["WARN", f"{one.client}:{one.source}", "", "", "", age, one.message])
    for target, number in seen.items():
        if number > FOLD:
            rows.append(["WARN", target, "", "", "", "", f"{number - FOLD} more sources are older there than promised"])
    return rows


def _row(line: SourceLine) -> List[str]:
    return [
        line.status,
        f"{line.client}:{line.source}",
        "" if line.level is None else str(line.level),
        text.size(line.bytes) if line.bytes else "",
        text.duration(line.seconds) if line.seconds else "",
        "never" if line.age is None else text.duration(line.age),
        _told(line.message, line.hint),
    ]


def _told(message: str, hint: str) -> str:
    return f"{message} -> {hint}" if hint else message


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text cells, columns aligned, nothing read as a number."""
    from tabulate import tabulate  # 50 ms, which an answer without a table need not pay

    return tabulate(rows, headers=head, tablefmt="plain", disable_numparse=True)
