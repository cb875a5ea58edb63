"""A server whose runs are killed: runs as forked children, what they had done by then, and what must hold afterwards.

    with Runner(folder, marks=mount) as runner:     a process that has loaded all; a run is a fork of it
        child = runner.begin("run")                 a command; kill=Kill(...) makes it end by SIGKILL at a step
        child.wait()                                its exit status; child.out, child.err: what it said

Here live the steps that a run can be killed at, and what must hold: look(), left_over(), processes().
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from backupcore.catalog import places  # noqa: E402
from backupcore.catalog.store import Catalog  # noqa: E402
from backupcore.dump.accept import STATES_KEPT  # noqa: E402
from backupcore.errors import ImageDamaged  # noqa: E402
from backupcore.image.folder import check_folder  # noqa: E402
from backupcore.image.manifest import load_public_keys  # noqa: E402

CATALOG = "backupcore.catalog.store:Catalog."
# From accepting a dump to all copies verified: what is called at each step. A run is killed before it and after it.
STEPS = {
    "the lock": "backupcore.dump.runlock:hold",
    "sweep": "backupcore.dump.sweep:sweep",
    "run begun": CATALOG + "begin_run",
    "landing made": "backupcore.dump.holding:Landing.make",
    "agent asked": "backupcore.dump.transport:AgentConnection.request",
    "dump received": "backupcore.dump.source:receive",
    "counter": CATALOG + "next_counter",
    "row noted": "backupcore.dump.accept:write_row",
    "signed": "backupcore.image.folder:finish",
    "in its place": "backupcore.dump.accept:_make_synced",
    "state and index kept": "backupcore.dump.accept:_keep",
    "row of the dump": CATALOG + "add_dump",
    "beside removed": "backupcore.dump.holding:Landing.remove_beside",
    "old states dropped": "backupcore.dump.accept:_drop_old_states",
    "old state forgotten": CATALOG + "forget_state",
    "result": CATALOG + "add_result",
    "copy noted": CATALOG + "put_copy",
    "target ready": "backupcore.stage.place:Place.ready",
    "file put": "backupcore.targets.directory:DirectoryTarget.put",
    "file in its place": "backupcore.targets.directory:DirectoryTarget.place",
    "manifest put": "backupcore.stage.copy:Copying._put_manifest",
    "copy verified": "backupcore.stage.copy:Copying._make",
    "image forgotten": CATALOG + "set_holding",
    "image moved": "backupcore.stage.release:_move",
    "image removed": "backupcore.stage.release:_clear",
    "run record": "backupcore.dump.record:write",
    "run ended": CATALOG + "end_run",
    "search": "backupcore.app.listing:refresh_search",
}  # fmt: skip
TOLD = ("add_dump", "put_copy", "end_run")  # of the catalog: what it has taken must last


class Kill(NamedTuple):
    """The run dies at the when-th call of the step: before it is done, or after."""

    step: str
    after: bool = False
    when: int = 1


class Child:
    """A command at work."""

    def __init__(self, runner: Runner, number: int, pid: int):
        self.runner, self.pid = runner, pid
        self.files = (runner.folder / f"{number}.out", runner.folder / f"{number}.err")
        self.status: Optional[int] = None

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, limit: float = 60.0) -> int:
        """Its exit status, negative: the signal that ended it."""
        if self.status is None:
            self.status = self.runner.ask("wait", limit=limit)
        return self.status

    @property
    def out(self) -> str:
        """What it wrote to standard output."""
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        """What it wrote to standard error."""
        return self.files[1].read_text()


class Runner:
    """One command at a time. folder: for what they say. marks: a powercut mount that is told what the catalog took."""

    def __init__(self, folder: Path, config: Path, marks: Optional[Path] = None):
        self.folder, self.count = folder, 0
        folder.mkdir()
        words = [sys.executable, "-I", __file__, str(folder), str(config), str(marks or "")]
        self.process = subprocess.Popen(words, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def close(self) -> None:
        """Ends it."""
        self.__exit__()

    def ask(self, line: str, limit: float = 60.0) -> int:
        """A line to it, a number back."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], limit)[0]:
            raise AssertionError(f"{line}: no answer for {limit:.0f} s")
        return int(self.process.stdout.readline())

    def begin(self, *words: str, kill: Optional[Kill] = None) -> Child:
        """Starts a command."""
        self.count += 1
        return Child(self, self.count, self.ask(json.dumps([self.count, words, kill])))

    def run(self, *words: str, status: int = 0) -> Child:
        """A command to its end."""
        child = self.begin(*words)
        assert child.wait() == status, (words, child.status, child.out[-2000:], child.err[-2000:])
        return child


def _patch(path: str, wrap: Any) -> None:
    module, _, name = path.partition(":")
    holder = importlib.import_module(module)
    *above, last = name.split(".")
    for one in above:
        holder = getattr(holder, one)
    setattr(holder, last, wrap(getattr(holder, last)))


def _killing(kill: Kill) -> Any:
    left, turn = [kill.when], threading.Lock()

    def count() -> None:
        with turn:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    def wrap(real: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            if not kill.after:
                count()
            answer = real(*args, **kwargs)
            if kill.after:
                count()
            return answer

        return step

    return wrap


def _telling(marks: str, name: str) -> Any:
    def wrap(real: Any) -> Any:
        def step(catalog: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
            answer = real(catalog, first, *args, **kwargs)
            words = [name, *([first.dump, first.target, first.state] if name == "put_copy" else [])]
            words += [first.id if name == "add_dump" else first] if name != "put_copy" else []
            os.path.lexists(f"{marks}/.mark:" + ":".join(words))
            return answer

        return step

    return wrap


def _child(folder: Path, config: str, marks: str, number: int, words: Sequence[str], kill: Optional[Sequence]) -> int:
    for ending, fd in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{number}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
    from backupcore.cli import _main

    if marks:
        for name in TOLD:
            _patch(CATALOG + name, _telling(marks, name))
    if kill is not None:
        wanted = Kill(*kill)
        _patch(STEPS[wanted.step], _killing(wanted))
    status = _main.main(["--config", config, *words])
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main(folder: str, config: str, marks: str) -> None:
    """A line of JSON begins a child and answers its number; `wait` answers its status."""
    import pkgutil

    import backupcore

    for found in pkgutil.walk_packages(backupcore.__path__, "backupcore."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    again = importlib.import_module("backupcore.dump.again")
    again.FIRST, again.SOON = 0.5, 0.25  # pauses are not what is tried here
    pid = 0
    for line in sys.stdin:
        if line == "wait\n":
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        number, words, kill = json.loads(line)
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            status = 3
            try:
                os.close(0)
                os.open(os.devnull, os.O_RDONLY)
                status = _child(Path(folder), config, marks, number, words, kill)
            except BaseException:  # noqa: B036
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        print(pid, flush=True)
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if pid and not os.waitpid(pid, os.WNOHANG)[0]:
            os.kill(pid, signal.SIGKILL)


# -- what must hold


class Places(NamedTuple):
    """Where things are. target: a directory target, named nas; None when there is none."""

    state: Path
    holding: Path
    target: Optional[Path] = None
    # state folders of clients, that have to be empty: scratch, permits
    clients: Tuple[Path, ...] = ()


class Found(NamedTuple):
    """What the catalog knows, and its faults: what it promises and is not there."""

    dumps: Dict[str, Any]
    copies: Dict[Tuple[str, str], Any]
    faults: List[str]


def look(at: Places, checked: Optional[Set[str]] = None) -> Found:
    """All that the catalog says is looked at, to the last byte; checked: images whose bytes were right before."""
    checked = checked if checked is not None else set()
    faults: List[str] = []
    catalog = Catalog(places.catalog_file(at.state))
    try:
        rows = {row.id: row for row in catalog.dumps()}
        copies = {(row.dump, row.target): row for row in catalog.copies()}
        chains = {name: [one.id for one in catalog.chain(name)] for name in rows}
    finally:
        catalog.close()
    keys = load_public_keys(at.state / "keys") if rows else {}
    for name, row in rows.items():
        sources = [Path(row.holding)] if row.holding else []
        prefix = Path(row.client) / places.source_folder(row.source, row.segment) / name
        sources += [at.target / prefix for key, one in copies.items() if key[0] == name and one.state == "verified"]
        if not sources:
            faults.append(f"{name} is nowhere")
        if _lost_its_state(at, row) and not _replaced(row, rows.values()):
            faults.append(f"{name} has no state")
        for place in sources:
            try:
                manifest = check_folder(place, keys, full=str(place) not in checked)
                checked.add(str(place))
                if (manifest.dump, manifest.counter) != (name, row.counter):
                    faults.append(f"{place} is another dump")
            except (ImageDamaged, OSError) as error:
                faults.append(f"{place}: {error}")
        if chains[name][-1] != name:
            faults.append(f"{name} has a strange chain")
    counters = [(row.client, row.source, row.counter) for row in rows.values()]
    if len(counters) != len(set(counters)):
        faults.append("a counter was given twice")
    return Found(rows, copies, faults)


def _lost_its_state(at: Places, row: Any) -> bool:
    folder = places.state_folder(at.state, row.client, row.source, row.segment)
    return row.state is not None and not (folder / row.state).is_file()


def _replaced(row: Any, rows: Iterable[Any]) -> bool:
    """Whether newer dumps replace its state: the file goes first, and a kill between leaves the row to the next run."""
    unit = (row.client, row.source, row.segment, row.level)
    newer = [one for one in rows if (one.client, one.source, one.segment, one.level) == unit]
    return sum(one.counter > row.counter for one in newer) >= STATES_KEPT


def left_over(at: Places, found: Found, allowed: Sequence[str] = ()) -> List[str]:
    """Files that belong to nothing, rows of states that are gone; to be asked after a run that came to its end.
    allowed: beginnings of paths."""
    strange = [f"row of {row.state}" for row in found.dumps.values() if _lost_its_state(at, row)]
    for top in (at.state, at.holding, *([at.target] if at.target else []), *at.clients):
        for folder, folders, names in os.walk(top):
            below = os.path.relpath(folder, top)
            for name in names:
                path = os.path.normpath(os.path.join(below, name))
                if not _belongs(at, top, path, found):
                    strange.append(f"{top.name}/{path}")
            if not folders and not names and top == at.holding and below not in (".", ".incoming"):
                strange.append(f"{top.name}/{below}/")
    return [one for one in strange if not one.startswith(tuple(allowed))] if allowed else strange


def _belongs(at: Places, top: Path, path: str, found: Found) -> bool:
    parts = path.split("/")
    name = parts[-1]
    if top == at.state:
        if name.endswith(".tmp") or parts[0] in ("pending", "direct", "waiting", "rebuild"):
            return False
        if len(parts) == 1 or path == "search/lock" or (parts[0] == "keys"):
            return True
        if parts[0] == "targets":
            return len(parts) == 3  # else a note of what is under way
        if parts[0] == "runs":
            return name.endswith((".json", ".sig"))
        if parts[0] == "search":
            return name.endswith(".history")
        row = found.dumps.get(name.partition(".")[0])
        if parts[0] == "state":
            return row is not None and row.state == name
        return parts[0] == "index" and row is not None and name.partition(".")[2] in (
            "tsv", "tsv.zst", "tsv.gz", "frames")  # fmt: skip
    if top == at.holding:
        return path == ".stowage" or (
            len(parts) == 4
            and parts[2] in found.dumps
            and found.dumps[parts[2]].holding == str(top / "/".join(parts[:3]))
        )
    if top == at.target:
        if parts[0] == ".stowage":
            return len(parts) == 2 or parts[1] in ("keys", "runs")
        copy = found.copies.get((parts[2], "nas")) if len(parts) == 4 else None
        return copy is not None and copy.state in ("verified", "done")
    return False


def processes(*words: str) -> List[str]:
    """The living processes that have one of the words in their command line or their folder: `PID command`."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and any(word in line for word in words):
            found.append(f"{entry} {line.strip()}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
