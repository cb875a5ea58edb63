"""The table of all goals: every family on fresh seeds, replayed, scored against the bound, judged.

    python bench/schedule/table.py [--families n100c7,big4x+parts] [--seeds 11-15] [--no-bound] [--errors 0.2]
                                   [--planner amanda] [--jobs 2] [--json OUT] [--crowd]

FAMILY+parts is the family with its giants cut (format stowage-sched/2). Bounds take up to minutes; they are kept in
--cache by what the scenario holds. --bounds-only makes them and stops. --crowd measures 10,000 sources instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import families  # noqa: E402
from goals import PARTS, STRETCH, judge  # noqa: E402

from backupcore.schedule import metrics, simulate  # noqa: E402

BOUND = "1"  # counts up when bound.py gives other figures
EVERY = list(families.FAMILIES) + [name + PARTS for name in families.SPLIT]
COLUMNS = (
    ("peak_over_mean", "peak/mean"),
    ("peak_over_bound", "peak/bound"),
    ("peak_over_lp", "peak/lp"),
    ("peak_over_online", "peak/online"),
    ("mean_over_bound", "mean/bound"),
    ("mean_over_amanda", "mean/amanda"),
    ("p95_over_mean", "p95/mean"),
    ("extra_full", "extra full"),
    ("first_peak_over_mean", "first/mean"),
    ("over_with_errors", "errors+"),
    ("late_hard", "late!"),
    ("missed", "missed"),
    ("capacity_failures", "over"),
    ("errors", "illegal"),
    ("chain_viol", "chain!"),
    ("chain_max", "chain"),
    ("late", "late"),
    ("unprotected", "unprot"),
    ("plan_s", "plan s"),
)


def scenario_of(family: str, seed: int) -> Dict[str, Any]:
    """FAMILY or FAMILY+parts."""
    made = families.generate(family.removesuffix(PARTS), seed)
    return families.split(made) if family.endswith(PARTS) else made


class Cache:
    """Small JSON files by what they were made from."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, kind: str, *made_from: Any) -> Tuple[Path, Optional[Any]]:
        text = json.dumps(made_from, sort_keys=True)
        path = self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        try:
            return path, json.loads(path.read_text())
        except (OSError, ValueError):
            return path, None

    def put(self, path: Path, value: Any) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}.new")
        new.write_text(json.dumps(value))
        os.replace(new, path)
        return value


def bound_of(cache: Cache, scenario: Dict[str, Any]) -> Dict[str, Any]:
    """The bound, from the cache or made now."""
    path, known = cache.get("bound", BOUND, scenario)
    if known is None:
        from bound import bound

        known = cache.put(path, bound(scenario))
    return known


def online_bound(cache: Cache, scenario: Dict[str, Any], result: Dict[str, Any], start: int) -> float:
    """The bound from a night on, with the ages that the result has by then."""
    from bound import bound, fulls_before

    state = fulls_before(scenario, result, start)
    path, known = cache.get("online", BOUND, scenario, start, state)
    if known is None:
        known = cache.put(path, bound(scenario, start, state))
    return known["bound"]


def measure(family: str, seed: int, asked: argparse.Namespace) -> Dict[str, Any]:
    """All figures of one family and seed."""
    cache = Cache(Path(asked.cache))
    scenario = scenario_of(family, seed)
    bounds = None if asked.no_bound else bound_of(cache, scenario)
    if asked.bounds_only:
        return {"family": family, "seed": seed, **(bounds or {})}
    result, seconds = timed_replay(scenario, asked.planner)
    row = metrics.score(scenario, result, bounds and bounds["bound"])
    row.update(family=family, seed=seed, plan_s=round(max(seconds), 3))
    if bounds:
        row["peak_over_lp"] = round(row["peak_bytes"] / bounds["lp"], 3) if bounds["lp"] else None
        kinds = ("lp", "big", "pig", "avg")
        row["bound_by"] = next(kind for kind in kinds if bounds.get(kind) == bounds["bound"])
    if scenario["outages"] and not asked.no_bound:
        start = max(scenario["outages"]) + 1
        after = max(metrics.loads(scenario, result)[start:])
        row["peak_over_online"] = round(after / online_bound(cache, scenario, result, start), 3)
    if asked.planner != "amanda":
        row["amanda"] = amanda_figures(cache, scenario)
        row["mean_over_amanda"] = round(row["mean_bytes"] / row["amanda"]["mean_bytes"], 3)
    if asked.errors:
        wrong = metrics.score(scenario, simulate.replay(scenario, asked.planner, errors=asked.errors, seed=seed))
        row["over_with_errors"] = round(wrong["peak_bytes"] / row["peak_bytes"], 3)
        for figure in ("late_hard", "missed", "errors", "chain_viol"):
            row[figure] += wrong[figure]
        row["with_errors"] = wrong
    if asked.keep:
        folder = Path(asked.keep)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{family}-{seed}-{asked.planner}.json").write_text(json.dumps(result))
    return row


def amanda_figures(cache: Cache, scenario: Dict[str, Any]) -> Dict[str, Any]:
    """What Amanda's planner makes of it."""
    path, known = cache.get("amanda", scenario)
    if known is None:
        known = cache.put(path, metrics.score(scenario, simulate.replay(scenario, "amanda")))
    return known


def timed_replay(scenario: Dict[str, Any], planner: str) -> Tuple[Dict[str, Any], List[float]]:
    """A replay, and the seconds of the processor that each plan took: a busy machine does not change those."""
    inner = simulate.planner(planner)
    seconds: List[float] = []

    def plan(view: Any, memory: Any) -> Any:
        begun = time.process_time()
        answer = inner.plan(view, memory)
        seconds.append(time.process_time() - begun)
        return answer

    def remember(*given: Any) -> Any:
        begun = time.process_time()
        answer = inner.remember(*given)
        seconds[-1] += time.process_time() - begun
        return answer

    result = simulate.replay(scenario, simulate.Planner(plan, remember, inner.start))
    return dict(result, planner=planner), seconds


def crowd(count: int, cycle: int, planner: str) -> Dict[str, Any]:
    """The slowest night of a crowd and the memory of the whole replay; runs in a process of its own.

    plan_s: seconds of the processor; plan_wall_s: as the clock saw it.
    """
    scenario = families.crowd(count, cycle)
    result, seconds = timed_replay(scenario, planner)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    figures = metrics.score(scenario, result)
    return {
        "sources": count,
        "cycle": cycle,
        "plan_s": round(max(seconds), 3),
        "plan_median_s": round(statistics.median(seconds), 3),
        "plan_wall_s": result["plan_seconds_max"],
        "MiB": memory,
        "peak_over_mean": figures["peak_over_mean"],
        "late_hard": figures["late_hard"],
        "missed": figures["missed"],
    }


def seeds_of(text: str) -> List[int]:
    """11-15 or 1,2,7."""
    found: List[int] = []
    for piece in text.split(","):
        low, _, high = piece.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def show(rows: List[Dict[str, Any]]) -> List[str]:
    """One line a family: the mean of the seeds, the worst in brackets where they differ; then the goals missed."""
    used = [(key, head) for key, head in COLUMNS if any(row.get(key) is not None for row in rows)]
    lines = [["family"] + [head for _, head in used] + ["goals"]]
    missed = []
    for family in [name for name in EVERY if any(row["family"] == name for row in rows)]:
        mine = [row for row in rows if row["family"] == family]
        line = [family]
        for key, _ in used:
            values = [row[key] for row in mine if row.get(key) is not None]
            line.append(_cell(values))
        verdicts = judge(family, mine)
        bad = [one for one in verdicts if not one["ok"]]
        stretch = judge(family, mine, STRETCH)
        word = "ok" if not bad else f"{len(bad)} missed"
        line.append(word + (" +" if stretch and all(one["ok"] for one in stretch) else ""))
        lines.append(line)
        for one in bad:
            goal = f"{one['goal']:g}" if one["goal"] is not None else "-"
            worst = f" ({one['worst_goal']:g})" if one["worst_goal"] is not None else ""
            missed.append(f"MISSED {family} {one['figure']}: {one['mean']:g} ({one['worst']:g}), goal {goal}{worst}")
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return table + missed


def _cell(values: List[float]) -> str:
    if not values:
        return ""
    mean, worst = sum(values) / len(values), max(values)
    text = f"{mean:.3f}".rstrip("0").rstrip(".") or "0"
    return text if abs(worst - mean) < 5e-4 else f"{text} ({worst:g})"


def measure_all(names: Sequence[str], asked: argparse.Namespace) -> List[Dict[str, Any]]:
    """The figures of these families and all seeds, several processes at once."""
    rows: List[Dict[str, Any]] = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        jobs = {pool.submit(measure, name, seed, asked): (name, seed) for name in names for seed in asked.seeds}
        for job in as_completed(jobs):
            row = job.result()
            rows.append(row)
            if asked.log:
                with open(asked.log, "a") as log:
                    log.write(json.dumps(row) + "\n")
            if sys.stderr.isatty():
                told = f"{len(rows)}/{len(jobs)} {row['family']} {row['seed']}"
                print(f"\r{told}\x1b[K", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(end="\r\x1b[K", file=sys.stderr)
    return sorted(rows, key=lambda row: (EVERY.index(row["family"]), row["seed"]))


def main() -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--families", default=",".join(EVERY))
    cli.add_argument("--seeds", default="11-15", type=seeds_of)
    cli.add_argument("--planner", default="stowage", choices=simulate.PLANNERS)
    cli.add_argument("--no-bound", action="store_true")
    cli.add_argument("--bounds-only", action="store_true")
    cli.add_argument("--errors", type=float, default=0.0)
    cli.add_argument("--jobs", type=int, default=2)
    cli.add_argument("--json")
    cli.add_argument("--log", help="a file that gets each family and seed as soon as it is measured")
    cli.add_argument("--keep", help="a folder for the results")
    cli.add_argument("--cache", default=str(Path(tempfile.gettempdir()) / "stowage-schedule-cache"))
    cli.add_argument("--crowd", action="store_true")
    asked = cli.parse_args()
    if asked.crowd:
        return _crowds(asked)
    names = asked.families.split(",")
    unknown = [name for name in names if name not in EVERY]
    if unknown:
        cli.error(f"no family {unknown[0]}; there are {' '.join(EVERY)}")
    rows = measure_all(names, asked)
    if asked.json:
        Path(asked.json).write_text(json.dumps({"planner": asked.planner, "rows": rows}, indent=1) + "\n")
    if asked.bounds_only:
        return 0
    print("\n".join(show(rows)))
    verdicts = [one for name in names for one in judge(name, [row for row in rows if row["family"] == name])]
    return 0 if all(one["ok"] for one in verdicts) else 1


def crowds(planner: str) -> Iterator[Dict[str, Any]]:
    """10,000 sources with a cycle of 7 and of 28 nights, each in a process of its own."""
    for cycle in (7, 28):
        with ProcessPoolExecutor(1) as pool:
            row = pool.submit(crowd, 10_000, cycle, planner).result()
        yield dict(row, ok=row["plan_s"] <= 2 and row["MiB"] <= 500 and not row["late_hard"] and not row["missed"])


def _crowds(asked: argparse.Namespace) -> int:
    good = True
    for row in crowds(asked.planner):
        print(json.dumps(row), flush=True)
        good = good and row["ok"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
