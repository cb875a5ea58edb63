"""For all tests: a scratch folder that is removed by rm, since hostile trees are too deep for others; their order; and
how property tests run: without a stop-watch, and in CI with the same examples each time.

STOWAGE_TESTS_IN is the folder that the scratch folder lies in (tests/run.sh: memory, where nothing waits for a disk).
What a test leaves in its tmp_path is removed as soon as it has passed.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path

import hypothesis
import pytest

PREFIX = "stowage-tests-"
AT_ONCE = 40  # folders of quick tests that one rm removes
FAILED = pytest.StashKey[bool]()
# CPU seconds of the files that take longest, roughly: they begin first, so that at the end no worker waits for another
LONGEST = Path(__file__).with_name("longest.txt")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # before any test is imported: what a test says of itself is taken on top of it. test-all, which leaves out no mark,
    # looks for new examples
    hypothesis.settings.register_profile(
        "tests", deadline=None, derandomize=bool(config.option.markexpr), database=None, max_examples=80,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )  # fmt: skip
    hypothesis.settings.load_profile("tests")
    if config.option.basetemp is None:
        place = os.environ.get("STOWAGE_TESTS_IN") or None
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        Path(folder).chmod(0o755)  # some tests run as another user
        config.option.basetemp = Path(folder) / "t"
        config.add_cleanup(lambda: remove([folder]))
        if place:
            sweep(Path(place), Path(folder), config)


def sweep(place, ours, config):
    """Removes what runs that were killed have left in memory: nobody holds its lock any more."""
    lock = open(ours / "lock", "w")  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    config.add_cleanup(lock.close)
    for other in place.glob(f"{PREFIX}*/lock"):
        found = other.stat()
        if found.st_uid == os.getuid() and time.time() - found.st_mtime > 60:  # not one that is just being made
            with open(other) as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                remove([other.parent])


def remove(folders):
    """Not across mounts."""
    if folders:
        subprocess.run(["rm", "-rf", "--one-file-system", *map(str, folders)], check=False)


@pytest.fixture
def disk_path():
    """A folder on the system's own disk, for what is about disks."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
    yield folder
    remove([folder])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest files first; the tests of a file stay in their order, and so do files that are not named."""
    known = [line.split("#")[0].split() for line in LONGEST.read_text().splitlines()]
    seconds = {name: float(count) for count, name in filter(None, known)}
    items.sort(key=lambda item: -seconds.get(item.nodeid.split("::")[0], 0.0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


done = []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    folder = getattr(item, "funcargs", {}).get("tmp_path")  # pytest forgets it
    result = yield
    if folder is not None and FAILED not in item.stash:
        done.append(folder)
    if nextitem is None or len(done) >= AT_ONCE or "integration" in item.path.parts:
        remove(done)
        done.clear()
    return result
