"""What the scheduler has to reach on fresh seeds, and whether a set of figures does.

Here live the goals and nothing that measures. A goal is about the mean over the seeds of a family and about its worst
seed; `table.py` makes the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from families import FAMILIES, SPLIT

ALWAYS_ZERO = ("late_hard", "missed", "errors", "chain_viol")
PARTS = "+parts"


@dataclass(frozen=True)
class Goal:
    """figure of these families: at most `mean` over the seeds, at most `worst` in any."""

    families: Sequence[str]
    figure: str
    mean: Optional[float]
    worst: Optional[float] = None


def _goals() -> List[Goal]:
    even = "n100c7 db100 cap12 cap12grow add50 n20c7 sme10c7 sme10c14 big2x big4x".split()
    every = list(FAMILIES) + [name + PARTS for name in SPLIT]
    goals = [
        Goal(even, "peak_over_bound", 1.02, 1.03),
        Goal(even, "extra_full", 0.02),
        Goal(["weekly", "growth", "churn", "chain3"], "peak_over_bound", 1.05, 1.07),
        Goal(["hetero300"], "peak_over_bound", 1.06, 1.08),
        Goal(["n100c28", "chain4c28"], "peak_over_bound", 1.10, 1.15),
        Goal(["n100c28", "chain4c28"], "extra_full", 0.02),
        Goal(["outage3", "outage3g7"], "peak_over_online", 1.05),
        Goal(["outage3g7"], "peak_over_mean", 1.35),
        Goal(["avail70"], "peak_over_mean", 1.10, 1.15),
        Goal(["laptop40"], "peak_over_mean", 1.30, 1.40),
        Goal(["avail70", "laptop40"], "p95_over_mean", 1.05),
        Goal(["avail70"], "mean_over_amanda", 1.05),
        Goal(["laptop40"], "mean_over_amanda", 1.10),
        Goal([name + PARTS for name in SPLIT], "peak_over_lp", 1.10),
        Goal(["n100c7", "outage3", "outage3g7", "cap12", "chain3", "db100"], "first_peak_over_mean", 1.1),
        Goal(["weekly"], "first_peak_over_mean", 1.25),
        Goal(["avail70"], "first_peak_over_mean", 1.5),
        # spread over 7 nights unless the administrator says otherwise: 1.05 * cycle / 7
        Goal(["n100c28", "chain4c28"], "first_peak_over_mean", 1.05 * 28 / 7),
        Goal(["hetero300"], "first_peak_over_mean", 1.05 * 14 / 7),
        Goal(every, "over_with_errors", 1.05),
        Goal(every, "plan_s", None, 2.0),
    ]
    goals += [Goal(every, figure, 0, 0) for figure in ALWAYS_ZERO]
    goals.append(Goal(["cap12", "cap12grow"], "capacity_failures", 0, 0))
    return goals


GOALS = _goals()
STRETCH = [Goal(["n100c28", "chain4c28"], "peak_over_bound", 1.05)]


def judge(family: str, rows: Sequence[Dict[str, Any]], goals: Sequence[Goal] = ()) -> List[Dict[str, Any]]:
    """Each goal of a family: {figure, mean, worst, goal, worst_goal, ok}; a figure nobody measured is left out."""
    found = []
    for goal in goals or GOALS:
        if family not in goal.families:
            continue
        values = [row[goal.figure] for row in rows if row.get(goal.figure) is not None]
        if not values:
            continue
        mean, worst = sum(values) / len(values), max(values)
        good = (goal.mean is None or mean <= goal.mean + 1e-9) and (goal.worst is None or worst <= goal.worst + 1e-9)
        found.append(
            {
                "figure": goal.figure,
                "mean": round(mean, 4),
                "worst": worst,
                "goal": goal.mean,
                "worst_goal": goal.worst,
                "ok": good,
            }
        )
    return found
