"""A line to an agent on this machine that is cut after so many bytes: stands where the agent's Python would.

    cutline.py FOLDER ARGUMENTS...            FOLDER/limits: a number a line, bytes from the agent until the cut of the
                                              first, second, ... conversation; none left: it is not cut
                                              FOLDER/passed: bytes from the agent of each conversation, cut or not

Here lives the program, and Line, which tests make; what is tested with it lives in tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import List


class Line:
    """The wrapper of a client's agent_python."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder
        self.program = folder / "python"
        self.agent_by(sys.executable)
        self.cut_after([])

    def agent_by(self, python: str) -> None:
        """The agent runs by this Python."""
        begin = f"#!/bin/sh\nAGENT_PYTHON={python} exec {sys.executable}"
        self.program.write_text(f'{begin} {os.path.abspath(__file__)} {self.folder} "$@"\n')
        self.program.chmod(0o755)

    def cut_after(self, limits: List[int]) -> None:
        """The next conversations are cut after so many bytes."""
        (self.folder / "limits").write_text("".join(f"{one}\n" for one in limits))
        (self.folder / "passed").write_text("")

    def passed(self) -> List[int]:
        """Bytes of each conversation since."""
        return [int(line) for line in (self.folder / "passed").read_text().split()]


def main(folder: Path, argv: List[str]) -> None:
    limits = (folder / "limits").read_text().split()
    (folder / "limits").write_text("".join(f"{one}\n" for one in limits[1:]))
    left = int(limits[0]) if limits else None
    python = os.environ.get("AGENT_PYTHON", sys.executable)
    agent = subprocess.Popen([python, *argv], stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
    passed = 0
    try:
        while left is None or left:
            data = os.read(agent.stdout.fileno(), 1 << 16 if left is None else min(left, 1 << 16))
            if not data:
                break
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
            passed += len(data)
            left = None if left is None else left - len(data)
    finally:
        with open(folder / "passed", "a") as file:
            file.write(f"{passed}\n")
        if left == 0:
            os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
            os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(agent.wait())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
