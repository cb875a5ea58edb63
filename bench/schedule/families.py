"""The 21 families of scenarios the scheduler is measured on: drawn from a family's name and a seed, nothing else.

Here lives the generator; `python bench/schedule/families.py FAMILY SEED [--parts]` prints one scenario. A seed gives
the same scenario on every machine and in every release: the order of the draws below is part of that.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from backupcore.schedule.model import Model  # noqa: E402

GB = 10**9
FAMILIES = (
    "n100c7 n100c28 n20c7 sme10c7 sme10c14 big2x big4x avail70 laptop40 outage3 outage3g7 hetero300 weekly growth "
    "add50 churn db100 cap12 cap12grow chain3 chain4c28"
).split()
SPLIT = "sme10c7 sme10c14 n20c7 big2x big4x".split()
LARGEST_PART = 0.3  # of a night's share of all fulls


class _Draw:
    """The dice of one scenario."""

    def __init__(self, family: str, seed: int):
        self.family, self.seed = family, seed
        self.dice = random.Random(zlib.crc32(family.encode()) * 1000 + seed)

    def fleet(
        self,
        count: int,
        cycle: int,
        days: int = 84,
        sigma: float = 1.3,
        change: Tuple[float, float] = (0.002, 0.03),
        prefix: str = "s",
        add: int = 0,
    ) -> Dict[str, Any]:
        """count sources, two on a client, log-normal sizes around 9 GB. 100 or more: no accidental giant."""
        dice, middle = self.dice, math.log(9 * GB)
        clients = [{"id": f"c{prefix}{number}", "avail": "1" * days} for number in range((count + 1) // 2)]
        sources = [
            {
                "id": f"{prefix}{number}",
                "client": clients[number // 2]["id"],
                "size": round(dice.lognormvariate(middle, sigma)),
                "growth": 0,
                "change": round(dice.uniform(*change), 5),
                "overhead": 50000,
                "add": add,
                "remove": None,
            }
            for number in range(count)
        ]
        for _ in range(50 if count >= 100 else 0):
            highest = 0.7 * sum(source["size"] for source in sources) / cycle
            for source in sources:
                if source["size"] > highest:
                    source["size"] = round(dice.lognormvariate(middle, sigma))
        return {
            "format": "stowage-sched/1",
            "name": f"{self.family}-{self.seed}",
            "family": self.family,
            "seed": self.seed,
            "days": days,
            "warmup": 28,
            "cycle": cycle,
            "grace": 3,
            "limit": None,
            "max_level": 9,
            "max_chain": None,
            "outages": [],
            "clients": clients,
            "sources": sources,
        }

    def absences(self, scenario: Dict[str, Any], chance: float, share: float = 1.0) -> None:
        """A share of the clients is there with this chance each night."""
        for client in scenario["clients"]:
            if self.dice.random() < share:
                nights = ("1" if self.dice.random() < chance else "0" for _ in range(scenario["days"]))
                client["avail"] = "".join(nights)


def generate(family: str, seed: int) -> Dict[str, Any]:
    """One scenario."""
    draw = _Draw(family, seed)
    dice = draw.dice
    if family in ("n100c28", "chain4c28"):
        scenario = draw.fleet(100, 28, days=140)
    elif family == "n20c7":
        scenario = draw.fleet(20, 7)
    elif family == "sme10c7":
        scenario = draw.fleet(10, 7)
    elif family == "sme10c14":
        scenario = draw.fleet(10, 14, days=98)
    elif family == "laptop40":
        scenario = draw.fleet(100, 7, days=112)
    elif family == "hetero300":
        scenario = draw.fleet(600, 14, days=98, sigma=2.0, change=(0.0005, 0.06))
    elif family in FAMILIES:
        scenario = draw.fleet(100, 7)
    else:
        raise SystemExit(f"no family {family}: {' '.join(FAMILIES)}")
    sources = scenario["sources"]
    if family in ("big2x", "big4x"):
        _giant(scenario, int(family[3]))
    elif family == "db100":
        _giant(scenario, 0.5)
        sources[0]["change"] = 1.0
    elif family == "avail70":
        draw.absences(scenario, 0.7)
    elif family == "laptop40":
        draw.absences(scenario, 0.4, 0.6)
    elif family.startswith("outage3"):
        scenario["outages"] = [50, 51, 52]
        scenario["grace"] = 7 if family == "outage3g7" else 3
    elif family == "weekly":
        for source in sources:
            source["week"] = [1.35, 1.35, 1.35, 1.35, 1.35, 0.15, 0.1]
        for client in scenario["clients"]:
            if dice.random() < 0.3:
                client["avail"] = "".join("0" if night % 7 >= 5 else "1" for night in range(scenario["days"]))
    elif family == "growth":
        for source in sources:
            source["growth"] = round(source["size"] * dice.uniform(0, 0.02))
    elif family == "add50":
        _join(scenario, draw.fleet(100, 7, prefix="n", add=30))
    elif family == "churn":
        for number in range(20):
            night = dice.randrange(20, 75)
            _join(scenario, draw.fleet(2, 7, prefix=f"n{number}_", add=night))
        for source in dice.sample(sources[:100], 25):
            source["remove"] = dice.randrange(30, 80)
    elif family in ("chain3", "chain4c28"):
        scenario["max_chain"] = int(family[5])
    elif family in ("cap12", "cap12grow"):
        for source in sources:
            source["growth"] = round(source["size"] * 0.002) if family == "cap12grow" else 0
        scenario["limit"] = round(1.2 * _last_load(scenario))
    return scenario


def split(scenario: Dict[str, Any]) -> Dict[str, Any]:
    """The same scenario in format /2: each source that is larger than 0.3 of a night's share is cut into parts.

    The parts are as uneven as folders are, none larger than that; their changes differ, and are what the change of
    the source was taken together. Drawn from the scenario's name.
    """
    dice = random.Random(zlib.crc32(f"{scenario['name']} parts".encode()))
    total = sum(source["size"] for source in scenario["sources"])
    highest = LARGEST_PART * total / scenario["cycle"]
    sources = []
    for source in scenario["sources"]:
        if source["size"] > highest:
            source = dict(source, parts=_parts(dice, source, highest))
        sources.append(source)
    return dict(scenario, format="stowage-sched/2", name=f"{scenario['name']}-parts", sources=sources)


def _parts(dice: random.Random, source: Dict[str, Any], highest: float) -> List[Dict[str, float]]:
    cuts = [1.0]
    while max(cuts) * source["size"] > highest:
        largest = max(cuts)
        cuts.remove(largest)
        at = dice.uniform(0.35, 0.65)
        cuts += [round(largest * at, 9), round(largest - round(largest * at, 9), 9)]
    weights = [dice.lognormvariate(0, 0.6) for _ in cuts]
    mean = sum(share * weight for share, weight in zip(cuts, weights))
    return [
        {"share": share, "change": round(min(1.0, source["change"] * weight / mean), 6)}
        for share, weight in zip(cuts, weights)
    ]


def _giant(scenario: Dict[str, Any], nights: float) -> None:
    """Source 0 becomes as large as so many nights' share of all fulls."""
    sources, cycle = scenario["sources"], scenario["cycle"]
    rest = sum(source["size"] for source in sources[1:])
    sources[0]["size"] = round(nights * rest / (cycle - nights))
    sources[0]["change"] = 0.01


def _join(scenario: Dict[str, Any], other: Dict[str, Any]) -> None:
    scenario["clients"] += other["clients"]
    scenario["sources"] += other["sources"]


def _last_load(scenario: Dict[str, Any]) -> float:
    """What an even last night would weigh."""
    model = Model(scenario)
    night = model.days - 1
    total = 0.0
    for number, unit in enumerate(model.units):
        least = model.least(number)[night] or 0.0
        total += least + (model.size(number, night) - least) / unit.cycle
    return total


def crowd(count: int, cycle: int, nights: int = 40) -> Dict[str, Any]:
    """Many sources, for the time a plan takes."""
    dice = random.Random(3)
    sources = [
        {
            "id": f"s{number}",
            "client": f"c{number // 2}",
            "size": int(dice.lognormvariate(23, 1.3)),
            "change": round(dice.uniform(0.002, 0.03), 5),
            "overhead": 50000,
        }
        for number in range(count)
    ]
    return {
        "format": "stowage-sched/1",
        "name": f"crowd{count}c{cycle}",
        "days": nights,
        "warmup": min(cycle, nights - 1),
        "cycle": cycle,
        "grace": 3,
        "max_level": 9,
        "clients": [{"id": f"c{number}", "avail": "1" * nights} for number in range((count + 1) // 2)],
        "sources": sources,
    }


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("family", choices=FAMILIES)
    cli.add_argument("seed", type=int)
    cli.add_argument("--parts", action="store_true", help="cut the giants (format stowage-sched/2)")
    asked = cli.parse_args()
    made = generate(asked.family, asked.seed)
    json.dump(split(made) if asked.parts else made, sys.stdout)
