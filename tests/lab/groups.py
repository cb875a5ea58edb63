"""Control groups: what a set of processes takes of memory and processor, whoever of them started whom. For tests only.

Version 1 (a folder in the hierarchy of memory and in that of cpuacct) and version 2 are known. Where neither can be
written, made() is None. The kernel counts the page cache of a group too: a limit holds, its peak alone says little.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any, List, Optional

TOP = Path("/sys/fs/cgroup")


class Group:
    """Folders of one group. A process joins by writing 0 into each of joins."""

    def __init__(self, folders: List[Path]):
        self.folders = folders
        self.joins = [folder / "cgroup.procs" for folder in folders]
        self._two = len(folders) == 1

    def command(self, *argv: str) -> List[str]:
        """argv, run inside."""
        script = "".join(f"echo 0 >'{path}' && " for path in self.joins) + 'exec "$@"'
        return ["sh", "-c", script, "sh", *argv]

    def limit(self, size: int) -> None:
        """More memory than that, and the kernel kills; swap counts where the kernel can count it."""
        self._write("memory.max" if self._two else "memory.limit_in_bytes", size)
        with contextlib.suppress(OSError):
            self._write("memory.swap.max" if self._two else "memory.memsw.limit_in_bytes", 0 if self._two else size)

    def memory(self) -> int:
        """Bytes that its processes hold now, without files that were only read or written."""
        lines = (self.folders[0] / "memory.stat").read_text().split("\n")
        found = dict(line.split(" ") for line in lines if line)
        return int(found["anon"]) if self._two else int(found["rss"])

    def cpu(self) -> float:
        """Seconds of processor time since it was made."""
        if self._two:
            return int((self.folders[0] / "cpu.stat").read_text().split()[1]) / 1e6
        return int((self.folders[1] / "cpuacct.usage").read_text()) / 1e9

    def killed(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        text = (self.folders[0] / ("memory.events" if self._two else "memory.oom_control")).read_text()
        return dict(line.split() for line in text.splitlines() if line).get("oom_kill", 0) != "0"

    def close(self) -> None:
        """Removes it; its processes have ended."""
        for folder in self.folders:
            for _ in range(50):  # the last process leaves a moment after it was waited for
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.1)

    def _write(self, name: str, value: object) -> None:
        (self.folders[0] / name).write_text(str(value))


def made(name: str) -> Optional[Group]:
    """A new group; None where this machine lets nobody make one."""
    full = f"stowage-{os.getpid()}-{name}"
    if (TOP / "cgroup.controllers").exists():
        hierarchies = [TOP]
    else:
        hierarchies = [TOP / "memory", TOP / "cpuacct"]
    folders: List[Path] = []
    try:
        for hierarchy in hierarchies:
            (hierarchy / full).mkdir()
            folders.append(hierarchy / full)
        if not (folders[0] / "memory.stat").exists():
            raise OSError("no memory controller")
        return Group(folders)
    except OSError:
        for folder in folders:
            folder.rmdir()
        return None


class Peak:
    """Watches what a process and all it starts hold, in bytes (found), and the process itself (largest, cpu)."""

    def __init__(self, group: Any, pid: int):
        self.found, self.largest, self.cpu = 0, 0, 0.0
        self._group, self._pid, self._over = group, pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            if self._group is not None:
                self.found = max(self.found, self._group.memory())
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                text = Path(f"/proc/{self._pid}/status").read_text()
                mine = [int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmHWM")]
                self.largest = max([self.largest, *mine])
                words = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
                self.cpu = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._over.set()
        self._thread.join()
