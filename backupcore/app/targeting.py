"""The targets: what is known of each, and proving that one does what a night needs of it.

Here live the overview (from the catalog and the last test, no place is asked) and the test. Adding one is adding.py;
what a kind proves of itself is its driver's probe().
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from .. import clock, files, text
from ..errors import StowageError
from ..hookspecs import Finding, TargetError
from .engine import Engine, Progress

SIZE = 32 << 20  # bytes that are sent and read for the throughput
STEP = 1 << 20
SKEW_WARNS, SKEW_FAILS = 60.0, 900.0  # seconds; at 15 minutes S3 refuses
FILE = "tested.json"
SENT = ".stowage/test-"
LEFT_NS = 86400 * clock.NS  # so old is what a test that was killed sent


def overview(engine: Engine) -> List[Dict[str, Any]]:
    """What is known of each target: configuration, copies, and the last test. Asks no place."""
    found = []
    copies: Dict[str, List[Any]] = {}
    for row in engine.catalog.copies():
        copies.setdefault(row.target, []).append(row)
    for name, one in engine.settings.targets.items():
        mine = [row for row in copies.get(name, ()) if row.state in ("done", "verified")]
        verified = max((row.verified_ns or 0 for row in mine), default=0)
        last = _last(engine.settings.state / "targets" / name / FILE)
        by_name = {said["name"]: said for said in last.get("findings", ()) if isinstance(said, dict) and "name" in said}
        found.append({
            "name": name, "type": one.type, "place": place_of(one.options), "state": last.get("status", "untested"),
            "tested": last.get("when"), "free": by_name.get("space", {}).get("message"),
            "copies": len(mine), "bytes": sum(row.bytes for row in mine),
            "open": sum(row.state in ("wanted", "copying", "failed") for row in copies.get(name, ())),
            "verified": clock.iso(verified) if verified else None, "lock": last.get("lock"),
            "versions": last.get("versions"),
            "file": engine.configuration.place("targets", name).rpartition(":")[0],
        })  # fmt: skip
    return found


def place_of(options: Any) -> str:
    """Where it is, in a few words, by the options that places have."""
    given = {key: options.get(key) for key in ("bucket", "host", "path", "prefix", "endpoint")}
    words = [str(given[key]) for key in ("bucket", "host") if given[key]]
    folder = given["prefix"] or given["path"]
    place = (words[0] + (":" if given["host"] else "/") if words else "") + str(folder or "")
    place = place.rstrip("/") or (words[0] if words else "/" if folder else "-")
    return place + (f" at {given['endpoint']}" if given["endpoint"] else "")


def _last(path: Path) -> Dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def test(engine: Engine, name: str, size: int = SIZE, progress: Progress = None) -> Dict[str, Any]:
    """Proves a target; what came of it, JSON-ready, and kept for the overview. Raises RequestError, TargetRefused."""
    folder = engine.settings.state / "targets" / name
    return prove(engine.target(name), lambda: engine.target(name, pruning=True), name, folder, size, progress)


def prove(
    target: Any, open_pruning: Callable[[], Any], name: str, folder: Path, size: int = SIZE, progress: Progress = None
) -> Dict[str, Any]:
    """The test of an open target, with folder for small files. open_pruning: opens it with the credential that may
    remove."""
    trial = _Trial(target, open_pruning, name, folder, size, progress)
    found = trial.run()
    with contextlib.suppress(OSError):
        files.make_folder(folder)
        files.replace(folder / FILE, json.dumps(found).encode())
    return found


def status_of(findings: List[Finding]) -> str:
    """ok, warn or fail."""
    if any(not one.ok and not one.warning for one in findings):
        return "fail"
    return "warn" if any(one.warning for one in findings) else "ok"


class _Trial:
    def __init__(self, target: Any, open_pruning: Callable[[], Any], name: str, folder: Path, size: int,
                 progress: Progress):  # fmt: skip
        self.target, self.open_pruning, self.name, self.folder = target, open_pruning, name, folder
        self.size, self.progress = size, progress
        self.findings: List[Finding] = []
        self.rates: Dict[str, Optional[float]] = {"up": None, "down": None}
        self.skew: Optional[float] = None
        self.known: Dict[str, bool] = {}

    def run(self) -> Dict[str, Any]:
        """All of it, as long as the place takes files at all."""
        self._step("probe", self._probe)
        if status_of(self.findings) != "fail":
            self._step("throughput", self._through)
        return {
            "name": self.name, "when": clock.iso(clock.now_ns()), "status": status_of(self.findings),
            "findings": [asdict(one) for one in self.findings], "skew": self.skew, "bytes": self.size,
            **self.rates, **self.known,
        }  # fmt: skip

    def _step(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except TargetError as error:
            self.findings.append(Finding(False, what, error.message, error.hint))
        except OSError as error:
            self.findings.append(Finding(False, what, f"{self.folder}: {error.strerror}", "make room or rights there"))
        except Exception as error:  # a third party's driver may raise anything: that is a finding, too
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.findings.append(Finding(False, what, f"the driver failed: {text.escape(told)}", "stowage drivers"))

    def _probe(self) -> None:
        self.findings += self.target.probe()
        if status_of(self.findings) != "fail":
            found = self.target.capabilities
            self.known = {"lock": bool(found.lock), "protects": bool(found.overwrite_protection),
                          "versions": bool(getattr(found, "versions", False))}  # fmt: skip

    def _through(self) -> None:
        """Some tens of megabytes there and back; on the way the clock, and that nothing is overwritten."""
        files.make_folder(self.folder)
        self._sweep()
        name = f"{SENT}{secrets.token_hex(4)}"
        path = self.folder / name.rpartition("/")[2]
        try:
            sha256 = self._fill(path)
            self._tell("sending", 0)
            began, asked = time.monotonic(), clock.now_ns()
            sent = [0]

            def progress(count: int) -> None:
                sent[0] += count
                self._tell("sending", sent[0])

            self.target.put(name, path, sha256=sha256, progress=progress)
            self.rates["up"] = self.size / max(time.monotonic() - began, 1e-6)
            answered = clock.now_ns()
            self._clock(name, asked, answered)
            self._back(name, sha256)
            self._twice(name, path)
        finally:
            path.unlink(missing_ok=True)
            self._remove(name)
        self._tell("done", self.size)

    def _sweep(self) -> None:
        """Removes what tests that were killed have left there."""
        for one in list(self.target.list(SENT)):
            if 0 < one.modified_ns < clock.now_ns() - LEFT_NS:
                with contextlib.suppress(TargetError, StowageError):
                    self.open_pruning().delete(one.name)

    def _remove(self, name: str) -> None:
        """Not small: it must not stay and be billed where the night's own key cannot remove it."""
        try:
            self.open_pruning().delete(name)
        except (TargetError, StowageError) as error:
            message = f"{name} ({text.size(self.size)}) stays there: {error.message}"
            self.findings.append(Finding(True, "leftovers", message, "remove it by hand", True))

    def _fill(self, path: Path) -> str:
        digest = hashlib.sha256()
        fd = files.create(path)
        try:
            for at in range(0, self.size, STEP):
                piece = os.urandom(min(STEP, self.size - at))
                digest.update(piece)
                files.write_all(fd, piece)
        finally:
            os.close(fd)
        return digest.hexdigest()

    def _back(self, name: str, sha256: str) -> None:
        digest, came, began = hashlib.sha256(), 0, time.monotonic()
        for piece in self.target.read(name):
            digest.update(piece)
            came += len(piece)
            self._tell("reading", came)
        self.rates["down"] = came / max(time.monotonic() - began, 1e-6)
        same = digest.hexdigest() == sha256
        told = ", ".join(f"{text.size(round(rate))}/s {way}" for way, rate in self.rates.items() if rate)
        message = f"{text.size(self.size)}: {told}" if same else f"other bytes came back than the {self.size} sent"
        self.findings.append(Finding(same, "throughput", message, "" if same else "use another place"))

    def _clock(self, name: str, asked: int, answered: int) -> None:
        found = self.target.stat(name)
        if found is None or not found.modified_ns:
            return  # the place tells no times
        # a place may cut its times to seconds
        early = asked - clock.NS - found.modified_ns
        late = found.modified_ns - answered - clock.NS
        self.skew = round(max(0, early) / clock.NS - max(0, late) / clock.NS, 1)
        away = abs(self.skew)
        if away < SKEW_WARNS:
            self.findings.append(Finding(True, "clock", "the clocks agree"))
            return
        way = "ahead of" if self.skew > 0 else "behind"
        message = f"this server's clock is {text.duration(away)} {way} the place's"
        self.findings.append(
            Finding(away < SKEW_FAILS, "clock", message, "set the wrong one: chronyc makestep", away < SKEW_FAILS)
        )

    def _twice(self, name: str, path: Path) -> None:
        try:
            self.target.put(name, path, if_absent=True)
        except TargetError:
            return
        hint = "let one backup server alone write there"
        self.findings.append(Finding(False, "overwrite", "a file that exists was put a second time", hint))

    def _tell(self, phase: str, count: int) -> None:
        if self.progress:
            self.progress({"target": self.name, "phase": phase, "bytes": count, "total": self.size})
