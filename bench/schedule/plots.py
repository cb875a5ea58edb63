"""Nights as pictures: our load, Amanda's and the bound, as small SVG files for docs/scheduler.md.

    python bench/schedule/plots.py docs/scheduler [--seed 11] [--cache DIR]

Here lives the drawing; what is drawn is replayed by the engine itself, and the bound comes from bound.py.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from table import Cache, bound_of, scenario_of  # noqa: E402

from backupcore.schedule import metrics, simulate  # noqa: E402

WIDTH, HEIGHT = 720, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 44, 34
OURS, AMANDA, BOUND, WHOLE = "#0b6e4f", "#c1666b", "#333333", "#7a9cc6"
# file, family, what to say above it, the first night shown and the one after the last
PICTURES: Sequence[Tuple[str, str, str, int, int]] = (
    ("first-nights", "n100c7", "The first nights: 100 sources, cycle 7", 0, 35),
    ("long-cycle", "n100c28", "A long cycle: 100 sources, cycle 28", 28, 140),
    ("additions", "add50", "On night 30, 100 sources more", 20, 70),
    ("outage", "outage3g7", "The server is down for nights 50 to 52 (grace 7)", 42, 84),
    ("laptops", "laptop40", "60 % of the clients are there on 40 % of the nights", 28, 112),
    ("weekdays", "weekly", "Nearly all changes from Monday to Friday; 30 % of the clients away at weekends", 28, 84),
)


@dataclass(frozen=True)
class Line:
    """One planner's nights."""

    name: str
    colour: str
    loads: Sequence[float]


def draw(title: str, lines: Sequence[Line], bound: Optional[float], bound_name: str = "bound", first: int = 0) -> str:
    """The picture as SVG text: nights from first on to the right, bytes upward, the bound dashed."""
    nights = max(len(line.loads) for line in lines)
    highest = max([max(line.loads) for line in lines] + [bound or 0.0])
    step = _step(highest)
    top = math.ceil(highest / step) * step

    def x(night: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * night / nights, 1)

    def y(load: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * load / top, 1)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">{escape(title)}</text>',
    ]
    for number in range(round(top / step) + 1):
        at = y(number * step)
        out.append(f'<path d="M{LEFT} {at}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        out.append(f'<text x="{LEFT - 5}" y="{at + 4}" text-anchor="end">{_bytes(number * step)}</text>')
    every = 7 if nights <= 84 else 14
    for night in range(first + (-first) % every, first + nights + 1, every):
        out.append(f'<text x="{x(night - first)}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{night}</text>')
    out.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">night</text>')
    for line in lines:
        path = "".join(f"L{x(night)} {y(load)}H{x(night + 1)}" for night, load in enumerate(line.loads))
        out.append(f'<path d="M{path[1:]}" fill="none" stroke="{line.colour}" stroke-width="1.6"/>')
    if bound:
        out.append(f'<path d="M{LEFT} {y(bound)}H{WIDTH - RIGHT}" stroke="{BOUND}" stroke-dasharray="5 4"/>')
    place = LEFT
    names = [(line.name, line.colour, "") for line in lines]
    for name, colour, dash in names + ([(bound_name, BOUND, ' stroke-dasharray="5 4"')] if bound else []):
        out.append(f'<path d="M{place} 30h18" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(f'<text x="{place + 23}" y="34">{escape(name)}</text>')
        place += 44 + 6 * len(name)
    return "\n".join([*out, "</svg>"]) + "\n"


def _step(highest: float) -> float:
    """A round number of bytes of which three to six make the highest."""
    rough = highest / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.8)


def _bytes(value: float) -> str:
    return f"{value / 1e12:g} TB" if value >= 1e12 else f"{value / 1e9:g} GB"


def pictures(seed: int, cache: Cache) -> Dict[str, str]:
    """file name -> SVG of each picture."""
    made = {}
    for file, family, title, first, end in PICTURES:
        scenario = scenario_of(family, seed)
        lines = [
            Line("Amanda's planner", AMANDA, _loads(scenario, "amanda")[first:end]),
            Line("Stowage", OURS, _loads(scenario, "stowage")[first:end]),
        ]
        made[f"{file}.svg"] = draw(title, lines, bound_of(cache, scenario)["bound"], first=first)
    whole, cut = scenario_of("big4x", seed), scenario_of("big4x+parts", seed)
    lines = [
        Line("Amanda's planner", AMANDA, _loads(whole, "amanda")[28:]),
        Line("Stowage, in one", WHOLE, _loads(whole, "stowage")[28:]),
        Line("Stowage, in segments", OURS, _loads(cut, "stowage")[28:]),
    ]
    title = "One source as large as four nights' share of all fulls"
    made["giant.svg"] = draw(title, lines, bound_of(cache, cut)["lp"], "bound without indivisibility", 28)
    return made


def _loads(scenario: Dict[str, Any], planner: str) -> List[float]:
    return metrics.loads(scenario, simulate.replay(scenario, planner))


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("folder", type=Path)
    cli.add_argument("--seed", type=int, default=11)
    cli.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "stowage-schedule-cache")
    asked = cli.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(asked.seed, Cache(asked.cache)).items():
        (asked.folder / name).write_text(picture)
        print(asked.folder / name, len(picture))
