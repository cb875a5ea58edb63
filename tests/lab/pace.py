"""What a playbook costs the controller for each task of each host, beside a bare ping, and whether that grows.

    python tests/lab/pace.py INVENTORY GROUP PLAYBOOK [--rounds 3]

Prints JSON: for ping and for the playbook over the whole group, and over a quarter of it, the seconds of the clock and
of the processors for one task of one host; `ratio`: the playbook's beside a ping's; `growth`: that over the whole group
beside that over the quarter (1 and less: nothing grows faster than the group). Medians of rounds whose parts alternate.
Knows nothing of Stowage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent


def measured(*argv: str) -> tuple[float, float, str]:
    """Seconds of the clock, of the processors (its children's, too), and what it said."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    plain = {name: value for name, value in os.environ.items() if name != "ANSIBLE_FORCE_COLOR"}
    done = subprocess.run([str(BIN / argv[0]), *argv[1:]], capture_output=True, text=True, check=False,
                          env={**plain, "ANSIBLE_NOCOLOR": "1"})  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, used, done.stdout


def tasks(told: str, names: set[str]) -> int:
    """How many tasks these hosts had, by the recap of a playbook."""
    recap = dict(re.findall(r"^(\S+)\s+: (ok=.*)$", told, re.MULTILINE))
    return sum(int(re.search(r"ok=(\d+)", recap[name])[1]) for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(description="what a playbook costs the controller")
    parser.add_argument("inventory")
    parser.add_argument("group")
    parser.add_argument("playbook")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    listed = measured("ansible", "-i", options.inventory, options.group, "--list-hosts")[2]
    names = listed.split("\n", 1)[1].split()
    few = names[: len(names) // 4]
    found: dict[str, list[tuple[float, float]]] = {"ping": [], "all": [], "few": []}
    for _ in range(options.rounds):
        for part, chosen in (("few", few), ("ping", names), ("all", names)):
            limit = ["--limit", ",".join(chosen)]
            if part == "ping":
                clock, used, _said = measured("ansible", "-i", options.inventory, options.group, *limit, "-m", "ping")
                count = len(names)
            else:
                clock, used, said = measured("ansible-playbook", "-i", options.inventory, options.playbook, *limit)
                count = tasks(said, set(chosen))
            found[part].append((clock / count, used / count))
    clock = {part: statistics.median(one for one, _used in rows) for part, rows in found.items()}
    used = {part: statistics.median(one for _clock, one in rows) for part, rows in found.items()}
    print(json.dumps({
        "hosts": len(names), "clock": {part: round(one, 4) for part, one in clock.items()},
        "processors": {part: round(one, 4) for part, one in used.items()},
        "ratio": round(used["all"] / used["ping"], 3), "growth": round(used["all"] / used["few"], 3),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
