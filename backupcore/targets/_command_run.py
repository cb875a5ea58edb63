"""One run of a program of the target `command`: no shell, an environment of its own, time limits, its last words.

Not here: which programs are run for what (command.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from typing import Iterator, List, Optional

from backupcore import text
from backupcore.hookspecs import TargetError

PIECE = 256 << 10
_TAIL = 4096  # bytes of its messages that are kept
_PASSED = ("PATH", "HOME", "TZ", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PASSED += tuple(name.lower() for name in _PASSED if name.endswith("PROXY"))


class Gone(TargetError):
    """The program ended with a status that means: it is not there."""


def environment() -> dict:
    """What a program needs to find itself; nothing else of ours, so no secret that lies there by chance."""
    kept = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class Run:
    """A program under way. what: the doing that fails, as `cannot write x`. missing: statuses that raise Gone."""

    def __init__(self, arguments: List[str], what: str, missing: List[int], longest: float, feed: bool, output: bool):
        self.what, self.missing = what, missing
        self.program = os.path.basename(arguments[0])
        self.deadline = time.monotonic() + longest
        self._tail = b""
        try:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE if output else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TargetError(f"{what}: cannot run {arguments[0]}: {reason}", "install it, or give its path") from None
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_error) -> None:
        """Whatever is still there of it ends."""
        if self.process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                pass
        self._signal(signal.SIGKILL)  # what it started itself, too
        self.process.wait()
        self._listener.join(1)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def feed(self, data: bytes, timeout: float) -> None:
        """Gives it bytes; when it ends before it took them, its status tells why."""
        view = memoryview(data)
        pipe = self.process.stdin
        os.set_blocking(pipe.fileno(), False)
        while view:
            self._wait(pipe, select.POLLOUT, timeout)
            try:
                view = view[os.write(pipe.fileno(), view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self.end(timeout)
                raise TargetError(f"{self.what}: {self.program} did not take all bytes", "", True) from None

    def end_of_feed(self) -> None:
        self.process.stdin.close()

    def output(self, timeout: float) -> Iterator[bytes]:
        """What it writes, as it comes."""
        pipe = self.process.stdout
        while True:
            self._wait(pipe, select.POLLIN, timeout)
            data = os.read(pipe.fileno(), PIECE)
            if not data:
                return
            yield data

    def end(self, timeout: Optional[float] = None) -> None:
        """Waits for its end; a status that is not 0 is an error with its last line."""
        left = max(0.0, self.deadline - time.monotonic())
        try:
            status = self.process.wait(left if timeout is None else min(left, timeout))
        except subprocess.TimeoutExpired:
            raise self._too_long() from None
        if status == 0:
            return
        self._listener.join(1)
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        said = f": {text.escape(lines[-1].strip())[:300]}" if lines else ""
        if status in self.missing:
            raise Gone(f"{self.what}: it is not there{said}")
        how = f"status {status}" if status > 0 else f"signal {-status}"
        raise TargetError(f"{self.what}: {self.program} ended with {how}{said}", "", True)

    # -- inside

    def _wait(self, pipe, event: int, timeout: float) -> None:
        poll = select.poll()
        poll.register(pipe.fileno(), event)
        left = min(timeout, self.deadline - time.monotonic())
        if left <= 0 or not poll.poll(left * 1000):
            raise self._too_long()

    def _too_long(self) -> TargetError:
        hint = "look at the network, or make timeout: or longest: larger"
        return TargetError(f"{self.what}: {self.program} takes too long, it was ended", hint, True)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError), self.process.stderr as pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                self._tail = (self._tail + data)[-_TAIL:]
