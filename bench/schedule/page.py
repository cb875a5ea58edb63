"""Measures all families and writes what came out into docs/scheduler.md: the table between its marks, the pictures.

    python bench/schedule/page.py docs [--seeds 21-25] [--rows FILE.json] [--crowds FILE] [--cache DIR]

--rows takes figures that `table.py --errors 0.2 --json` wrote before instead of measuring again, --crowds the lines
that `table.py --crowd` printed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import plots  # noqa: E402
import table  # noqa: E402
from goals import STRETCH, judge  # noqa: E402

HEAD = (
    "family", "peak / bound", "peak / mean", "mean / bound", "extra fulls", "warm-up / mean", "errors",
    "longest chain", "goals",
)  # fmt: skip
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")


def mean(rows: Sequence[Dict[str, Any]], figure: str) -> str:
    """The mean over the seeds, the worst in brackets where it differs; - when nobody measured it."""
    values = [row[figure] for row in rows if row.get(figure) is not None]
    if not values:
        return "-"
    average, worst = sum(values) / len(values), max(values)
    return f"{average:.3f}" + (f" ({worst:.3f})" if abs(worst - average) >= 5e-4 else "")


def brief(rows: Sequence[Dict[str, Any]], figure: str, digits: int = 2) -> str:
    """The mean over the seeds."""
    values = [row[figure] for row in rows if row.get(figure) is not None]
    return f"{sum(values) / len(values):.{digits}f}" if values else "-"


def page(rows: List[Dict[str, Any]], crowds: List[Dict[str, Any]]) -> List[str]:
    """The lines between the marks."""
    seeds = sorted({row["seed"] for row in rows})
    told = (
        f"Mean of {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), the worst seed in brackets; Amanda's planner behind"
    )
    told += (
        " the slash. Estimates are exact, except in the column *errors*: how much higher the highest night gets when"
    )
    told += " every estimate is wrong by up to 20 %."
    lines = [told, "", "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    missed = []
    for family in [name for name in table.EVERY if any(row["family"] == name for row in rows)]:
        mine = [row for row in rows if row["family"] == family]
        theirs = [
            dict(
                row["amanda"], peak_over_bound=row["amanda"]["peak_bytes"] * row["peak_over_bound"] / row["peak_bytes"]
            )
            for row in mine
        ]
        for other, row in zip(theirs, mine):
            other["mean_over_bound"] = other["peak_over_bound"] / other["peak_over_mean"]
            row["extra_percent"] = 100 * (row["extra_full"] or 0)
            other["extra_percent"] = 100 * (other["extra_full"] or 0)
            row["error_percent"] = 100 * (row["over_with_errors"] - 1) if row.get("over_with_errors") else None
        verdicts = judge(family, mine)
        bad = [one for one in verdicts if not one["ok"]]
        stretch = judge(family, mine, STRETCH)
        word = "held" if not bad else f"{len(bad)} missed"
        if stretch:
            word += ", stretch too" if all(one["ok"] for one in stretch) else ", stretch missed"
        cells = [
            family,
            f"**{mean(mine, 'peak_over_bound')}** / {brief(theirs, 'peak_over_bound')}",
            f"{mean(mine, 'peak_over_mean')} / {brief(theirs, 'peak_over_mean')}",
            f"{brief(mine, 'mean_over_bound')} / {brief(theirs, 'mean_over_bound')}",
            f"{brief(mine, 'extra_percent', 1)} % / {brief(theirs, 'extra_percent', 1)} %",
            f"{brief(mine, 'first_peak_over_mean')} / {brief(theirs, 'first_peak_over_mean')}",
            f"{brief(mine, 'error_percent', 1)} %",
            f"{max(row['chain_max'] for row in mine)} / {max(row['chain_max'] for row in theirs)}",
            word,
        ]
        lines.append("| " + " | ".join(cells) + " |")
        for one in bad:
            goal = " ".join(
                [f"{one['goal']:g}" if one["goal"] is not None else ""]
                + ([f"(worst seed {one['worst_goal']:g})"] if one["worst_goal"] is not None else [])
            ).strip()
            missed.append(f"- {family}: `{one['figure']}` {one['mean']:g}, worst {one['worst']:g}; goal {goal}")
    lines += ["", *_zeros(rows), ""]
    lines += ["Goals missed:", "", *missed] if missed else ["Every goal is held."]
    if crowds:
        lines += ["", "| sources | cycle | slowest plan | memory of the whole replay | peak / mean |", "|---" * 5 + "|"]
    for one in crowds:
        cells = [one["sources"], one["cycle"], f"{one['plan_s']:.2f} s", f"{one['MiB']} MiB", one["peak_over_mean"]]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def _zeros(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """What must be 0, over everything."""
    figures = ("late_hard", "missed", "errors", "chain_viol", "capacity_failures")
    sums = [f"`{figure}` {sum(row[figure] for row in rows)}" for figure in figures]
    online = [row["peak_over_online"] for row in rows if row.get("peak_over_online")]
    over = sum(row["with_errors"]["capacity_failures"] for row in rows if row.get("with_errors"))
    told = f"Over all {len(rows)} replays, and as many with wrong estimates: " + ", ".join(sums)
    told += f" with exact estimates and {over} with wrong ones."
    if online:
        told += f" After the outages the peak is at most {max(online):.3f} of the bound from the return on (*online*)."
    return [told]


def put(document: Path, lines: Sequence[str]) -> None:
    """Replaces what stands between the marks."""
    text = document.read_text("utf-8")
    pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
    if not re.search(pattern, text, re.DOTALL):
        raise SystemExit(f"{document} has no marks {MARKS[0]} {MARKS[1]}")
    block = "\n".join([MARKS[0], *lines, MARKS[1]])
    document.write_text(re.sub(pattern, lambda _match: block, text, flags=re.DOTALL), "utf-8")


def main() -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("docs", type=Path)
    cli.add_argument("--seeds", default="21-25", type=table.seeds_of)
    cli.add_argument("--rows", type=Path)
    cli.add_argument("--crowds", type=Path)
    cli.add_argument("--jobs", type=int, default=2)
    cli.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "stowage-schedule-cache"))
    asked = cli.parse_args()
    if asked.rows:
        rows = json.loads(asked.rows.read_text())["rows"]
    else:
        settings = {
            "planner": "stowage",
            "errors": 0.2,
            "no_bound": False,
            "bounds_only": False,
            "keep": None,
            "log": None,
        }
        rows = table.measure_all(table.EVERY, argparse.Namespace(**{**vars(asked), **settings}))
    if asked.crowds:
        crowds = [json.loads(line) for line in asked.crowds.read_text().splitlines()]
    else:
        crowds = list(table.crowds("stowage"))
    pictures = plots.pictures(asked.seeds[0], table.Cache(Path(asked.cache)))
    folder = asked.docs / "scheduler"
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).write_text(picture, "utf-8")
    put(asked.docs / "scheduler.md", page(rows, crowds))
    print("\n".join(table.show(rows)))
    for one in crowds:
        print(json.dumps(one))
    return 0


if __name__ == "__main__":
    sys.exit(main())
