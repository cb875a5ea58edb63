"""make bench: measures Stowage beside the tools people know, in the same run, and writes a page.

    python bench/run.py OUT.md [--scratch DIR] [--runs 3] [--only WORD] [--small]

Every row is a ratio of medians of runs that alternate between both sides. Before a row the trees are read once
and their residency in memory is checked; after it the results are asserted (counts, contents), since a benchmark
that fails quickly looks fast. Clients are real sshd's on a loopback address; both sides use the same ciphers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import onefile
import search
import staging
import trees
import verifying
from bed import Bed

ROOT = Path(__file__).resolve().parents[1]
STAGE_PORT = 17680  # and those up to 60 above
VERIFY_PORT = 17580  # and those up to 60 above
ONEFILE_PORT = 17480  # and those up to 60 above


def shell(script: str) -> None:
    """Runs a bash pipeline, any failing part fails it."""
    subprocess.run(["bash", "-o", "pipefail", "-ec", script], check=True, stdout=subprocess.DEVNULL)


def timed(action) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def alternate(runs: int, ours, theirs, before=lambda: None) -> tuple[list[float], list[float]]:
    """Times both in turn, `runs` times each, after one of each that does not count."""
    mine, other = [], []
    for count in range(runs + 1):
        before()
        a = timed(ours)
        before()
        b = timed(theirs)
        if count:
            mine.append(a)
            other.append(b)
    return mine, other


class Bench:
    """The rows, each a method named row_*; results gather in self.rows."""

    def __init__(self, scratch: Path, runs: int, small: bool):
        self.bed = Bed(scratch)
        self.runs = runs
        self.small = small
        self.onefile_gib = 2.0
        self.rows: list[tuple[str, str, str, str, str, str]] = []

    def add(
        self, what: str, ours: list[float], theirs: list[float], wanted: float | None, yardstick: str, note: str
    ) -> None:
        """A row: medians, their ratio, what design asks."""
        a, b = statistics.median(ours), statistics.median(theirs)
        verdict = f"{a / b:.2f}"
        most = "-" if wanted is None else f"{wanted:.2f}"
        self.rows.append((what, yardstick, f"{a:.2f} s", f"{b:.2f} s", verdict, most))
        print(f"{what}: {a:.2f} s against {b:.2f} s ({yardstick}): {verdict}, wanted {most}; {note}", flush=True)

    def add_figure(self, what: str, value: str, wanted: str, note: str = "") -> None:
        """A row without a yardstick beside it."""
        self.rows.append((what, note or "-", value, "-", "-", wanted))
        print(f"{what}: {value}, wanted {wanted} {note}", flush=True)

    def tree(self, kind: str) -> Path:
        """The tree of a kind, made once: `mixed`, `tiny`, `flat`."""
        path = self.bed.scratch / (f"tree-{kind}" + ("-of-small" if self.small else ""))
        if not path.exists():
            count = {"mixed": 8_000 if self.small else 120_000, "tiny": 20_000 if self.small else 1_000_000,
                     "flat": 20_000 if self.small else 1_000_000}[kind]  # fmt: skip
            getattr(trees, kind)(path, count)
        return path

    def row_full(
        self, kind: str = "mixed", wanted: float = 0.90, words: str = "full over ssh, mean file 20 KB or more"
    ):
        """A full dump over ssh: zstd, hashed, indexed, catalogued, against tar and zstd in a pipe."""
        tree = self.tree(kind)
        entries, size = trees.count(tree)
        bed = self.bed
        bed.configure({kind: {"path": str(tree)}})
        trees.warm(tree)
        out = bed.scratch / "yardstick.tar.zst"
        pipeline = f"tar -C {tree} -cf - . | zstd -q -1 -T0 | {bed.ssh_line} 'cat > {out}'"
        ours, theirs = alternate(
            self.runs,
            lambda: bed.run(kind, level=0),
            lambda: shell(pipeline),
            before=lambda: trees.check_resident(tree),
        )
        dump = bed.last_dump(kind)
        assert dump["entries"] == entries, (dump["entries"], entries)
        bed.check_image(dump)
        note = f"{entries} entries, {size / 1e6:.0f} MB; image {dump['stored_size'] / 1e6:.0f} MB"
        note += f" against {out.stat().st_size / 1e6:.0f} MB"
        out.unlink()
        self.add(words, ours, theirs, wanted, "tar | zstd -1 -T0 | ssh cat", note)

    def row_tiny(self):
        """The same with a million tiny files with nanosecond times, and the agent's memory."""
        self.row_full("tiny", 1.50, "full over ssh, 1,000,000 tiny files, ns times")

    def row_sealed(self):
        """A full dump over ssh sealed by the server and by the client, beside the same one unsealed."""
        tree, bed = self.tree("mixed"), self.bed
        names = ("plain", "server", "client")
        bed.configure({
            name: {"path": str(tree), **({} if name == "plain" else {"policy": name})} for name in names
        })  # fmt: skip
        trees.warm(tree)
        times: dict[str, list[float]] = {name: [] for name in names}
        for count in range(self.runs + 1):
            for name in names:
                trees.check_resident(tree)
                seconds = timed(lambda name=name: bed.run(name, level=0))
                if count:
                    times[name].append(seconds)
        for name in names:
            dump = bed.last_dump(name)
            bed.check_image(dump)
            seal = json.loads((Path(dump["holding"]) / "manifest.json").read_text())["seal"]
            assert (seal and seal["by"]) == (None if name == "plain" else name), seal
            if seal:
                self.add(f"full over ssh, sealed by the {name}", times[name], times["plain"], 1.10,
                         "the same dump unsealed", "AES-256-CTR, HMAC-SHA256, two recipients")  # fmt: skip
        bed.configure({"mixed": {"path": str(tree)}})

    def row_unchanged(self):
        """Nothing changed: the same transport on both sides, against tar -g."""
        bed, tree = self.bed, self.tree("mixed")
        bed.configure({"mixed": {"path": str(tree)}})
        trees.warm(tree)
        if not bed.has_full("mixed"):
            bed.run("mixed", level=0)
        snar, work = bed.scratch / "tar.snar", bed.scratch / "tar.work"
        shell(f"rm -f {snar}; tar -C {tree} -g {snar} -cf /dev/null .")
        pipeline = f"cp {snar} {work}; tar -C {tree} -g {work} -cf - . | zstd -q -1 | {bed.ssh_line} 'cat > /dev/null'"
        alone: list[float] = []
        ours, theirs = alternate(
            self.runs,
            lambda: alone.append(bed.run("mixed", level=1)["sources"][0]["seconds"]),
            lambda: shell(pipeline),
        )
        assert bed.last_dump("mixed")["files"] == 0, bed.last_dump("mixed")
        yardstick = "tar -g | zstd | ssh cat"
        self.add("nothing changed, over ssh on both sides, whole run", ours, theirs, 0.90, yardstick, "")
        self.add("the same, the dump alone as the run tells it", alone[1:], theirs, 0.90, yardstick,
                 "connection, agent, image, signature and row; without the start of the program")  # fmt: skip

    def row_restic(self):
        """Nothing changed, against restic on a local repository."""
        if not shutil.which("restic"):
            raise SystemExit("restic is missing: apt-get install restic")
        bed, tree = self.bed, self.tree("mixed")
        bed.configure({"mixed": {"path": str(tree)}})
        repository = bed.scratch / "restic"
        env = f"RESTIC_PASSWORD=x RESTIC_REPOSITORY={repository}"
        shell(f"rm -rf {repository}; {env} restic -q init; {env} restic -q backup {tree}")
        if not bed.has_full("mixed"):
            bed.run("mixed", level=0)
        ours, theirs = alternate(
            self.runs, lambda: bed.run("mixed", level=1), lambda: shell(f"{env} restic -q backup {tree}")
        )
        shutil.rmtree(repository)
        self.add("nothing changed, over ssh, against restic (local)", ours, theirs, 0.15, "restic backup", "")

    def row_restore(self):
        """A whole restore, sync inside the time, against zstd and tar."""
        bed, tree = self.bed, self.tree("mixed")
        bed.configure({"mixed": {"path": str(tree)}})
        bed.run("mixed", level=0)
        dump = bed.last_dump("mixed")
        # in memory: on a disk whose inodes were just freed, both take minutes and their ratio means nothing
        out = Path("/dev/shm") / f"stowage-bench-{os.getpid()}"
        image = f"{dump['holding']}/image-*.tar.zst"

        def clean() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            os.sync()
            shell(f"cat {image} > /dev/null")

        ours, theirs = alternate(
            self.runs,
            lambda: (bed.stowage("restore", f"{bed.client}:{tree}", "--to", str(out)), os.sync()),
            lambda: shell(f"zstd -dc {image} | tar -xpf - -C {out}; sync"),
            before=clean,
        )
        clean()
        bed.stowage("restore", f"{bed.client}:{tree}", "--to", str(out))
        shell(f"diff -r --no-dereference {tree} {out}{tree}")
        shutil.rmtree(out)
        self.add("whole restore, sync inside", ours, theirs, 1.00, "zstd -dc | tar x; sync", "compared with diff -r")

    def row_memory(self):
        """Peak memory of the agent and of the server."""
        for kind, wanted in (("tiny", "64 MiB"), ("flat", "128 MiB")):
            tree = self.tree(kind)
            self.bed.configure({kind: {"path": str(tree)}})
            for level in (0, 1):
                server, agent = self.bed.run_measured(kind, level)
                word = "1,000,000 entries" if kind == "tiny" else "one flat folder of 1,000,000"
                self.add_figure(f"memory of the agent, {word}, level {level}", f"{agent / 1024:.0f} MiB", wanted)
                if kind == "tiny":
                    self.add_figure(
                        f"memory of `stowage run`, one dump in flight, level {level}",
                        f"{server / 1024:.0f} MiB",
                        "48 MiB a dump",
                        "whole process, interpreter included",
                    )

    def row_small(self):
        """A run with one small source, all included."""
        small = self.bed.scratch / "tree-small"
        small.mkdir(exist_ok=True)
        (small / "file").write_text("x")
        self.bed.configure({"small": {"path": str(small)}})
        self.bed.run("small", level=0)
        times = [timed(lambda: self.bed.run("small", level=0)) for _ in range(max(5, self.runs))]
        logins = [timed(lambda: shell(f"{self.bed.ssh_line} true")) for _ in range(max(5, self.runs))]
        self.add_figure("a run with one small source, all included", f"{statistics.median(times):.2f} s", "0.9 s",
                        f"`ssh host true` takes {statistics.median(logins):.2f} s")  # fmt: skip

    def row_search(self):
        """A catalog of 100,000,000 entries: how large it is, and how long `stowage find` takes as a process."""
        for mix in ("fleet", "unlike"):
            place = self.bed.scratch / f"search-{mix}"
            for what, value, wanted, note in search.rows(place, mix, 2_000_000 if self.small else 100_000_000):
                self.add_figure(what, value, wanted, note)
            shutil.rmtree(place)

    def row_onefile(self):
        """One 10 KiB file out of a sealed image on S3; the image's size does not matter, so that it is a small one."""
        place = self.bed.scratch / "onefile"
        lab = [sys.executable, str(ROOT / "tests/lab/s3server.py")]
        up = subprocess.run([*lab, "up", str(place / "s3"), str(ONEFILE_PORT)], check=True, capture_output=True)
        try:
            size = (1 << 28) if self.small else int(self.onefile_gib * (1 << 30))
            for row in onefile.rows(place / "lab", json.loads(up.stdout), size, self.runs + 2):
                self.add_figure(*row)
        finally:
            subprocess.run([*lab, "down", str(place / "s3")], check=True, capture_output=True)
            shutil.rmtree(place, ignore_errors=True)

    def row_verify(self):
        """Every byte of a copy, on a folder and on S3, against the tools that read the same files."""
        bed, tree, place = self.bed, self.tree("mixed"), self.bed.scratch / "verify"
        bed.configure({"mixed": {"path": str(tree)}})
        lab = [sys.executable, str(ROOT / "tests/lab/s3server.py")]
        up = subprocess.run([*lab, "up", str(place / "s3"), str(VERIFY_PORT)], check=True, capture_output=True)
        try:
            secret = bed.lab / "s3.json"
            verifying.add_targets(bed.lab / "stowage.yml", place / "nas", json.loads(up.stdout), secret)
            bed.run("mixed", level=0)
            for name, ours, theirs, note in verifying.rows(bed, "mixed", self.runs):
                words = "S3" if name == "cloud" else "a folder"
                self.add(f"verify --full, {words}: {note}", ours, theirs, None, "sha256sum -c; zstd -t", "")
        finally:
            subprocess.run([*lab, "down", str(place / "s3")], check=True, capture_output=True)
            shutil.rmtree(place, ignore_errors=True)


    def row_stage(self):
        """One large file to S3, against s5cmd cp of the same file to the same server."""
        bed, place = self.bed, self.bed.scratch / "stage"
        size = (64 if self.small else 1024) << 20
        shutil.rmtree(place, ignore_errors=True)
        staging.make_tree(place / "tree", size)
        (place / "little").mkdir()
        bed.configure({"file": {"path": str(place / "tree")}, "little": {"path": str(place / "little")}})
        bed.run("file", level=0)
        lab = [sys.executable, str(ROOT / "tests/lab/s3server.py")]
        up = subprocess.run([*lab, "up", str(place / "s3"), str(STAGE_PORT)], check=True, capture_output=True)
        try:
            found = staging.measure(bed, json.loads(up.stdout), "file", "little", self.runs)
        finally:
            subprocess.run([*lab, "down", str(place / "s3")], check=True, capture_output=True)
            shutil.rmtree(place, ignore_errors=True)
        # 0.9 of the throughput is 1.11 of the time
        words = f"stage to S3, one file of {found.bytes / 1e6:.0f} MB"
        speeds = [found.bytes / 1e6 / statistics.median(times) for times in (found.copy, found.theirs)]
        note = f"{speeds[0]:.0f} MB/s against {speeds[1]:.0f} MB/s"
        self.add(f"{words}: the copy, verified, as stage tells it", found.copy, found.theirs, 1.11, "s5cmd cp", note)
        self.add(f"{words}: the whole command", found.whole, found.theirs, None, "s5cmd cp", "start, catalog, listing")
        self.add(f"{words}: CPU of the whole command", found.work, found.their_work, 1.11, "CPU of s5cmd cp",
                 "of the client alone: a server and others on the machine do not tell")  # fmt: skip
        self.add_figure(f"memory of `stowage stage`, one file of {found.bytes / 1e6:.0f} MB",
                        f"{found.peak / 1024:.0f} MiB", "200 MiB", "whole process")  # fmt: skip

    def row_fleet(self):
        """A night of 300 clients, each behind an sshd of its own on this machine, against as many bare logins."""
        sys.path.insert(0, str(ROOT / "tests/lab"))
        import fleet

        count = 12 if self.small else 300
        told = fleet.run("--clients", str(count), "--rounds", str(self.runs + 1), limit=7200)  # the first has estimates
        nights, bare = (told[name][1:] for name in ("nights", "bare"))
        assert all(one["status"] == 0 and len(one["answer"]["copies"]) == count for one in nights)
        words = f"a night of {count} clients, {told['at_once']} at once, all on this machine"
        ours, theirs = ([one["seconds"] for one in side] for side in (nights, bare))
        theirs = [seconds + told["bytes_seconds"] for seconds in theirs]
        note = f"`ssh {count} x true`, and the bytes by ssh"
        self.add(f"{words}: fulls, copies on a directory, report", ours, theirs, 1.30, note, "")
        if not told["limited"]:
            return
        for who, name in (("server: stowage, ssh, copies", "server"), ("clients: sshd, agent", "clients")):
            spent = [[one["cpu"][name] for one in side] for side in (nights, bare)]
            self.add(f"{words}: CPU of the {who}", *spent, None, "CPU of the logins alone", "")
        own = statistics.median(one["own_cpu"] for one in nights)
        self.add_figure(f"{words}: CPU of the process of `stowage run` itself", f"{own:.1f} s", "-")
        peak = max(one["peak"] for one in nights)
        self.add_figure(f"{words}: memory of the server with its ssh's", f"{peak / 2**20:.0f} MiB", "400 MiB", "cgroup")


def page(bench: Bench) -> str:
    """The page of benchmarks, Markdown."""
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; edit nothing here. Medians of runs that alternate between both sides on one",
        f"machine ({cores} cores, {memory} GiB, Linux {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}, {time.strftime('%Y-%m-%d')}); ratios matter, seconds do not.",
        "Every figure of Stowage is a whole `stowage run` or `stowage restore`: start of the program, ssh, agent,",
        "hashes, index, signature, catalog, sync.",
        "",
        "| what | yardstick | Stowage | yardstick's | ratio | wanted at most |",
        "|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in bench.rows]
    remarks = ROOT / "bench" / "remarks.md"
    if remarks.exists():
        lines += ["", remarks.read_text().strip()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/stowage-bench"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--small", action="store_true", help="small trees: proves the benchmark, measures nothing")
    parser.add_argument("--onefile-gib", type=float, default=2.0, help="size of the image of row onefile (20: 10 min)")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its byte code
    if os.geteuid() != 0:
        sys.exit("the benchmark starts sshd's and reads as root: run it as root")
    subprocess.run([str(ROOT / "tests/lab/packages.sh"), "restic"], check=True)
    bench = Bench(options.scratch, options.runs, options.small)
    bench.onefile_gib = options.onefile_gib
    try:
        for name in "full sealed unchanged restic restore small tiny memory verify stage search onefile fleet".split():
            if options.only in name:
                getattr(bench, f"row_{name}")()
                if not options.only:
                    options.out.write_text(page(bench))  # a long way: what is measured stays
    finally:
        bench.bed.close()
        if not options.only:
            shutil.rmtree(options.scratch, ignore_errors=True)
    if not options.only:
        options.out.write_text(page(bench))
    print(
        json.dumps(
            [dict(zip(("what", "yardstick", "ours", "theirs", "ratio", "wanted"), r)) for r in bench.rows], indent=1
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
