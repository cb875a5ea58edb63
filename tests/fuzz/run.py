"""Coverage-guided fuzzing of all readers of foreign bytes, each for some seconds.

    python tests/fuzz/run.py [--seconds N] [--reader NAME]

A reader that crashes, takes over 5 s for one input or 512 MiB of memory ends it with status 1 and keeps the input.
Inputs that reach new code are kept in build/fuzz/<reader>, so that the next run begins where this one ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]


def one(name: str, arguments: list) -> None:
    """Fuzzes one reader in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["backupcore", "json"]):
        import readers
    from backupcore.errors import StowageError

    function = readers.READERS[name]

    def test(data: bytes) -> None:
        try:
            function(data)
        except StowageError:
            pass

    atheris.Setup([name, *arguments], test)
    atheris.Fuzz()


def main() -> int:
    """Every reader in a process of its own, two at a time; 0 when all held."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=20, help="for each reader")
    parser.add_argument("--reader", help="only this one")
    parser.add_argument("--one", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one[0], asked.one[1:])
        return 0
    import readers

    names = [asked.reader] if asked.reader else sorted(readers.READERS)
    failed, running = [], {}

    def wait(most: int) -> None:
        while len(running) > most:
            pid, status = os.wait()
            name, process = running.pop(pid)
            process.returncode = os.waitstatus_to_exitcode(status)
            print(f"fuzz {name}: {'held' if process.returncode == 0 else 'FAILED'}", flush=True)
            if process.returncode:
                failed.append(name)

    for name in names:
        corpus = ROOT / "build" / "fuzz" / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(readers.samples(name)):
            (corpus / f"sample-{number}").write_bytes(sample)
        limits = [f"-max_total_time={asked.seconds}", "-timeout=5", "-rss_limit_mb=512", "-max_len=65536"]
        command = [sys.executable, __file__, "--one", name, *limits, "-print_final_stats=1", "-verbosity=0",
                   f"-artifact_prefix={corpus.parent}/{name}-", str(corpus)]  # fmt: skip
        with open(corpus.parent / f"{name}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        running[process.pid] = (name, process)
        wait(1)
    wait(0)
    for name in failed:
        print(f"--- {name}\n" + (ROOT / "build" / "fuzz" / f"{name}.log").read_text(errors="replace")[-4000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
