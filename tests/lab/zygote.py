"""A process that has loaded all that staging needs and makes children to be killed: a fork instead of a start.

    with Zygote(world) as zygote:
        child = zygote.begin()       one staging of the world's settings, as a new process would make it
        child.kill(); child.wait()

Nothing but one thread lives in it, so that forks are safe. Targets are opened anew in each child.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Tuple

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A staging at work. wait(): its exit status, negative when it was killed; results: (dump, target, ok, message)."""

    def __init__(self, zygote: "Zygote", pid: int, told: Path):
        self.zygote, self.pid, self.told = zygote, pid, told

    def kill(self) -> None:
        """As the power does; no error when it has come to its end (it stays until it is waited for)."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status."""
        return self.zygote.ask("wait")

    @property
    def results(self) -> List[Tuple[str, str, bool, str]]:
        """What it said of each copy."""
        return pickle.loads(self.told.read_bytes())


class Zygote:
    """One child at a time. world: stage_world.World or one made by s3_world."""

    def __init__(self, world: Any):
        self.folder = world.root / "zygote"
        self.folder.mkdir()
        self.world = world
        self.count = 0
        words = [sys.executable, "-I", __file__]
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.stdin.close()
        self.process.wait(30)

    def ask(self, line: str) -> int:
        """A line to it, a number back."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def begin(self, **how: Any) -> Child:
        """A staging; how: further arguments of stager.stage; second: (origin, target) of second copies; patched:
        (module, name) -> value."""
        self.count += 1
        asked, told = self.folder / "asked", self.folder / f"told-{self.count}"
        asked.write_bytes(pickle.dumps((self.world.settings, how)))
        return Child(self, self.ask(f"{asked}\t{told}"), told)

    def run(self, **how: Any) -> Child:
        """A staging to its end."""
        child = self.begin(**how)
        assert child.wait() == 0
        return child


def stage(asked: str, told: str) -> None:
    """In a child: all that a process does that stages."""
    import importlib

    from backupcore.hookspecs import TargetContext

    from backupcore.catalog import places
    from backupcore.catalog.store import Catalog
    from backupcore.dump import runlock, sweep
    from backupcore.dump.space import Space
    from backupcore.stage import second, stager
    from backupcore.targets import directory, s3, sftp

    settings, how = pickle.loads(Path(asked).read_bytes())
    for (module, name), value in how.pop("patched", {}).items():
        setattr(importlib.import_module(module), name, value)
    drivers = {driver.type: driver for driver in (directory.DRIVER, s3.DRIVER, sftp.DRIVER)}
    server, opened = places.server_id(settings.state), {}

    def open_target(name: str) -> Any:
        if name not in opened:
            wanted = settings.targets[name]
            context = TargetContext(name, server, settings.state / "targets" / name)
            driver = drivers[wanted.type]
            opened[name] = driver.open(driver.options.model_validate(dict(wanted.options)), context)
        return opened[name]

    catalog = Catalog(places.catalog_file(settings.state))
    with runlock.hold(settings):
        sweep.sweep(settings, catalog)
        if "second" in how:
            origin, target = how.pop("second")
            how.update(jobs=second.choose(catalog, origin, target).jobs, origin=origin)
        results = stager.stage(settings, catalog, open_target, rooms=Space(settings.holding), **how)
    Path(told).write_bytes(pickle.dumps([(one.dump, one.target, one.ok, one.message) for one in results]))


def main() -> None:
    """A line `ASKED<tab>TOLD` begins a child and answers its number; `wait` waits for it and answers its status."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/lab")]
    import boto3.session
    import botocore.handlers  # noqa: F401
    import paramiko  # noqa: F401

    import backupcore.dump.sweep  # noqa: F401
    import backupcore.stage.stager
    import backupcore.targets.sftp  # noqa: F401

    # what a client reads from files is loaded once
    boto3.session.Session(aws_access_key_id="x", aws_secret_access_key="x").client("s3", region_name="us-east-1")
    pid = 0
    for line in sys.stdin:
        if line == "wait\n":
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            try:
                os.close(1)
                with contextlib.suppress(KeyboardInterrupt):
                    stage(*line.rstrip("\n").split("\t"))
                os._exit(0)
            except BaseException:  # noqa: B036
                import traceback

                traceback.print_exc()
            finally:
                os._exit(3)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
