"""The search at scale: a catalog of 100,000,000 entries, and how long a person waits for an answer.

    python bench/search.py [--scratch DIR] [--entries N] [--mix fleet|unlike] [--keep]

Two mixes. fleet: 60 sources, 30 fulls of each, between two of them 1 % of the files changed, 0.2 % new and 0.2 % gone.
unlike: as many sources of 1,000,000 paths as it takes, one full of each, no path and few names twice: nothing that
keeping each path once could save. An entry is a line of an index. The lines are made in memory and read by the very
function that reads those of a night; what is measured is `stowage find` as a process, from its start to its end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator

from backupcore.catalog import places
from backupcore.catalog.records import DumpRow
from backupcore.catalog.store import Catalog
from backupcore.search import store

ROOT = Path(__file__).resolve().parents[1]
SEED = 20261122
NIGHT = 86_400_000_000_000
BEGIN = 1_760_000_000_000_000_000
WORDS = (
    "account acme admin agent alpha apache archive asset audio audit auth backup banner base batch bench beta "
    "billing blob board book boot build button cache calendar campaign catalog change chart check client cloud "
    "cluster code color common config contact content control core country create cron current customer daily dash "
    "data debug default delta deploy design detail device dialog digest disk docker draft driver editor email "
    "engine error event export factor feature feed field filter final finance font footer form frame gallery gamma "
    "global graph grid group handler header health helper history home host icon image import index inner input "
    "install invoice issue item job journal kernel label language layer layout ledger legacy library license limit "
    "link list loader local locale login logo machine mail main manager manual market master media meeting member "
    "menu merge message metric migrate mobile model module monitor month mount network news node note notice number "
    "object office offer online option order origin output owner package page panel parser partner patch payment "
    "person photo plan player plugin point policy portal post power preview price print private process product "
    "profile project protocol provider proxy public purchase query queue quote random record region release remote "
    "render report request resource result review role root route sample schedule schema scope screen script search "
    "section secure select sender server service session setting share signal simple site size snapshot socket "
    "source split staff stage standard start state static status stock storage store stream string style summary "
    "support switch symbol sync system table target task team template tenant test theme thread ticket time token "
    "tool topic total trace track train transfer tree trend trigger unit update upload user utils value vendor "
    "version video view visit volume warning web widget window worker wrapper year zone "
).split()  # fmt: skip
KINDS = ("system", "system", "system", "system", "python", "web", "photos", "office", "hashes", "mail", "logs", "web")
YEAR = 31_536_000


def names(kind: str, begin: int, numbers: random.Random) -> Iterator[tuple[str, float]]:
    """Names of files as a folder of that kind has them, each with the time of its content; begin: of the folder."""
    pick, below = numbers.random, numbers.randrange
    moment = begin + pick()
    while True:
        one, two, chance = numbers.choice(WORDS), numbers.choice(WORDS), pick()
        if kind in ("system", "python"):  # came with a package: whole seconds, one time for all of it
            moment = begin
        elif kind == "web":  # put there by one deployment, in some milliseconds
            moment += 0.004 * below(3)
        elif kind != "logs":
            moment += numbers.expovariate(1 / 40_000)
        stamp = time.gmtime(moment)
        if kind == "system":
            if chance < 0.2:
                yield f"lib{one}-{two}.so.{below(9)}.{below(30)}", moment
            else:
                yield (
                    f"{one}.conf" if chance < 0.3 else f"{one}-{two}.{below(1, 9)}.gz" if chance < 0.5 else
                    f"{one}_{two}.h" if chance < 0.7 else f"{one}-{two}-{below(1000)}"
                ), moment  # fmt: skip
        elif kind == "python":
            ending = ".py" if chance < 0.5 else ".cpython-311.pyc"
            yield "__init__.py" if chance < 0.1 else f"{one}_{two}{ending}", moment
        elif kind == "web":
            yield (
                "index.html" if chance < 0.1 else "style.css" if chance < 0.2 else
                f"{one}-{two}.{numbers.getrandbits(32):08x}.js" if chance < 0.5 else f"{one}{below(10_000)}.png"
            ), moment  # fmt: skip
        elif kind == "photos":
            yield time.strftime("IMG_%Y%m%d_%H%M%S.jpg", stamp), float(int(moment))
        elif kind == "office":
            ending = numbers.choice(("pdf", "docx", "xlsx", "odt"))
            yield f"{one.title()} {two} {stamp.tm_year}-{stamp.tm_mon:02d}.{ending}", moment
        elif kind == "hashes":
            yield f"{numbers.getrandbits(152):038x}", moment
        elif kind == "mail":
            yield f"{int(moment)}.M{below(1_000_000)}P{below(30_000)}.{one},S={below(100_000)}:2,S", moment
        else:
            number = below(60)
            yield f"{one}.log.{number}.gz", begin - number * 86400 + 2 + pick() / 8


@dataclass
class Tree:
    """A source: its lines in walk order, and the change from dump to dump."""

    seed: int
    entries: int
    lines: list[bytes] = field(default_factory=list)

    def grow(self) -> Tree:
        """Makes the lines."""
        self.numbers = random.Random(self.seed)
        packages = [float(self.numbers.randrange(1_500_000_000, 1_760_000_000)) for _ in range(300)]
        self.later = 1_760_000_000.0
        self.lines = [self._folder(b".")]
        top = 0
        while len(self.lines) < self.entries:
            top += 1
            kind = self.numbers.choice(KINDS)
            self._fill(f"{top:04d}-{self.numbers.choice(WORDS)}".encode(), kind, packages, 0)
        del self.lines[self.entries :]
        return self

    def _fill(self, path: bytes, kind: str, packages: list[int], depth: int) -> None:
        numbers = self.numbers
        self.lines.append(self._folder(path))
        whole = kind in ("system", "python", "logs")
        begin = numbers.choice(packages) if whole else float(numbers.randrange(1_500_000_000, 1_760_000_000))
        found = dict(itertools.islice(names(kind, begin, numbers), int(numbers.lognormvariate(2.2, 1.0))))
        for one in sorted(found):
            self.lines.append(self.file(path + b"/" + one.encode(), found[one]))
        if depth < 5:
            below = {numbers.choice(WORDS) for _ in range(numbers.choice((0, 1, 2, 3, 4) if depth else (8, 20, 40)))}
            for one in sorted(one.encode() for one in below):
                self._fill(path + b"/" + one, kind, packages, depth + 1)

    def _folder(self, path: bytes) -> bytes:
        time = b"%d.%09d" % (self.numbers.randrange(1_500_000_000, 1_760_000_000), self.numbers.randrange(10**9))
        return b"%b\td\t755\t0\t0\t0\t%b\t%b\t77\t-\t-\t512\t512\t-\n" % (path, time, time)

    def file(self, path: bytes, moment: float) -> bytes:
        """The line of a file with content of that time."""
        numbers = self.numbers
        size = int(numbers.lognormvariate(8.5, 2))
        whole = int(moment)
        # the clock of a file system steps by some milliseconds
        stamp = b"%d.%09d" % (whole, int((moment - whole) * 250) * 4_000_000 + 391 * (moment != whole))
        return b"%b\tf\t644\t0\t0\t%d\t%b\t%b\t77\t-\t%064x\t%d\t%d\t-\n" % (
            path, size, stamp, stamp, numbers.getrandbits(256), numbers.getrandbits(33), size + 512,
        )  # fmt: skip

    def night(self) -> None:
        """A night later."""
        numbers, lines = self.numbers, self.lines
        self.later += 86400
        for count, what in ((100, "change"), (20, "new"), (20, "gone")):
            for _ in range(len(lines) * count // 10_000):
                at = numbers.randrange(len(lines))
                path = lines[at][: lines[at].index(b"\t")]
                if lines[at][len(path) : len(path) + 3] != b"\tf\t":
                    continue
                if what == "gone":
                    del lines[at]
                elif what == "change":
                    lines[at] = self.file(path, self.later + 40_000 * numbers.random())
                elif not path.endswith(b" (1)") and not lines[(at + 1) % len(lines)].startswith(path + b" (1)"):
                    lines.insert(at + 1, self.file(path + b" (1)", self.later))

    def chunks(self) -> Iterator[bytes]:
        """The index in chunks."""
        for at in range(0, len(self.lines), 5000):
            yield b"".join(self.lines[at : at + 5000])


class Catalogued:
    """A state folder with the catalog and the histories of a mix."""

    def __init__(self, scratch: Path, mix: str, entries: int):
        self.scratch, self.mix, self.state = scratch, mix, scratch / "state"
        self.sources, self.fulls = (60, 30) if mix == "fleet" else (max(1, entries // 1_000_000), 1)
        self.paths = entries // (self.sources * self.fulls)
        self.trees: dict[str, Tree] = {}
        self.rows: list[DumpRow] = []
        self.spent = 0.0

    def make(self) -> store.Updated:
        """Makes all of it; how long the making of lines took is known after."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.state.mkdir(parents=True)
        config = {"state": str(self.state), "holding": [{"path": str(self.scratch / "holding"), "use": "1 GiB"}]}
        (self.scratch / "stowage.yml").write_text(json.dumps(config))
        catalog = Catalog(places.catalog_file(self.state))
        for source in range(self.sources):
            previous = None
            for number in range(self.fulls):
                begun = BEGIN + number * NIGHT + source * 1_000_000_000
                stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(begun // 10**9))
                row = DumpRow(
                    id=f"{stamp}-L0-{source * 1000 + number:08x}", client=f"web{source:03d}.acme.example",
                    source="data", segment="", type="tree", path="/srv/data", level=0, counter=number + 1,
                    begun_ns=begun, ended_ns=begun + 10**9, base=None, previous=previous, run="r", codec="zstd",
                    archive_size=0, stored_size=0, entries=self.paths, files=self.paths, holding=None,
                    manifest_sha256="0" * 64,
                )  # fmt: skip
                previous = row.id
                catalog.add_dump(row)
                self.rows.append(row)
        catalog.close()
        return store.update(self.state, self.rows, self.chunks, processes=len(os.sched_getaffinity(0)))

    def chunks(self, row: DumpRow) -> Iterator[bytes]:
        """The index of a dump: each source's come in their order."""
        if row.counter == 1:
            self.trees = {row.client: Tree(SEED + int(row.id[-8:], 16), self.paths).grow()}
        else:
            self.trees[row.client].night()
        return self.trees[row.client].chunks()

    def generation(self) -> float:
        """CPU seconds that making lines alone takes, by making one source's again."""
        began = time.process_time()
        tree = Tree(SEED, self.paths).grow()
        for number in range(self.fulls):
            if number:
                tree.night()
            for _chunk in tree.chunks():
                pass
        return (time.process_time() - began) * self.sources

    def sizes(self) -> tuple[int, int]:
        """(bytes of all histories, of them hashes)."""
        opened, absent = store.open_all(self.state, self.rows)
        assert not absent, f"{len(absent)} dumps are in no history"
        total = sum(os.fstat(one.history.fd).st_size for one in opened)
        hashes = sum(sum(one.history.table["hashes_length"]) for one in opened)
        self.unique = sum(sum(one.history.table["entries"]) for one in opened)
        for one in opened:
            os.close(one.history.fd)
        return total, hashes

    def warm(self) -> None:
        """Reads all histories, so that they lie in memory."""
        for path in store.folder(self.state).rglob("*.history"):
            with open(path, "rb") as file:
                while file.read(1 << 22):
                    pass

    def cold(self) -> None:
        """Throws the histories out of memory."""
        os.sync()
        for path in store.folder(self.state).rglob("*.history"):
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def find(self, *words: str) -> tuple[float, int, int, float]:
        """(wall seconds, paths found, peak KiB of the largest process, CPU seconds) of `stowage find`."""
        out = self.scratch / "out.json"
        config = str(self.scratch / "stowage.yml")
        line = [sys.executable, "-m", "backupcore", "--config", config, "--json", "find", *words]
        began = time.perf_counter()
        with open(out, "wb") as file:
            process = subprocess.Popen(line, stdout=file, cwd=ROOT)
            _pid, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        found = json.loads(out.read_text())
        assert process.returncode in (0, 1), found
        paths = {(one["client"], one["path"]) for one in found["found"]}
        return took, len(paths), used.ru_maxrss, used.ru_utime + used.ru_stime


# what is asked, how long an answer may take, the words; {name} and {path} are of a file that is there
QUESTIONS = (
    ("exact name", 1.0, ("{name}",)),
    ("exact path on one client", 1.0, ("web000.acme.example:/srv/data/{path}",)),
    ("glob of a name", 3.0, ("lib*-invoice.so.3.*",)),
    ("part of a name", 3.0, ("--substring", "ledger-invoice")),
    ("part of a name, any case", 3.0, ("--substring", "-i", "LEDGER INVOICE 2019")),
    ("part of a name that nothing has", 3.0, ("--substring", "qqqzzz")),
    ("deleted, with a part of a name and a size", 3.0, ("--substring", "invoice-l", "--deleted", "--larger", "100 kB")),
)


def rows(scratch: Path, mix: str, entries: int, runs: int = 5) -> Iterator[tuple[str, str, str, str]]:
    """(what, value, wanted, note) of a mix."""
    made = Catalogued(scratch, mix, entries)
    began = time.perf_counter()
    done = made.make()
    took = time.perf_counter() - began
    assert not done.failed, done.failed[:3]
    whole = done.entries
    share = made.generation() / len(os.sched_getaffinity(0))
    total, hashes = made.sizes()
    title = f"find, {whole / 1e6:.0f} M entries, {mix}"
    yield (
        f"{title}: read into the search", f"{whole / max(took - share, 1e-9) / 1e6:.2f} M entries a second", "-",
        f"{took:.0f} s of which making the lines {share:.0f} s; {made.unique} paths",
    )  # fmt: skip
    yield (
        f"{title}: size", f"{(total - hashes) / whole:.2f} bytes an entry", "12",
        f"and {hashes / whole:.2f} of hashes; {(total - hashes) / made.unique:.2f} bytes a path",
    )  # fmt: skip
    path = Tree(SEED, made.paths).grow().lines[-1].split(b"\t")[0].decode()
    known = {"path": path, "name": path.rpartition("/")[2]}
    peak = 0
    for what, wanted, words in QUESTIONS:
        words = [word.format(**known) for word in words]
        made.warm()
        times = [made.find(*words) for _ in range(runs)]
        made.cold()
        cold = made.find(*words)[0]
        peak = max([peak, *(one[2] for one in times)])
        seconds, spent = (statistics.median(one[at] for one in times) for at in (0, 3))
        note = f"{times[0][1]} paths; {spent:.2f} s of CPU; not in memory {cold:.2f} s"
        yield f"{title}: {what}", f"{seconds:.2f} s", f"{wanted:.0f} s", note
    yield f"{title}: memory", f"{peak / 1024:.0f} MiB", "512 MiB", "the largest process"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/stowage-bench-search"))
    parser.add_argument("--entries", type=int, default=100_000_000)
    parser.add_argument("--mix", choices=("fleet", "unlike"), action="append")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="leave the catalog there")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its byte code
    for mix in options.mix or ("fleet", "unlike"):
        place = options.scratch / mix
        for what, value, wanted, note in rows(place, mix, options.entries, options.runs):
            print(f"{what}: {value}, wanted {wanted}; {note}", flush=True)
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    print("peak of this process:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
