"""Trees for the benchmarks, and whether they lie in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import shutil
import sys
from pathlib import Path

SEED = 20261122


def mixed(path: Path, files: int) -> None:
    """Real files of /usr, mean size 20 to 25 KB: as many as asked, copied as often as needed."""
    found: list[tuple[str, int]] = []
    for top in ("/usr/lib/python3", "/usr/lib/python3.11", "/usr/share", "/usr/include", "/usr/lib"):
        for folder, _folders, names in os.walk(top):
            for name in names:
                full = os.path.join(folder, name)
                if os.path.isfile(full) and not os.path.islink(full):
                    size = os.path.getsize(full)
                    if size < 4_000_000:
                        found.append((full, size))
    found = sorted(set(found))
    random.Random(SEED).shuffle(found)
    # what pulls the mean out of 21 to 25 KB is left out
    total = done = 0
    copy = 0
    while done < files:
        for full, size in found:
            mean = total / done if done else 22_000
            if (mean > 25_000 and size > 25_000) or (mean < 21_000 and size < 3_000):
                continue
            target = path / f"copy{copy}" / full.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(full, target)
            whole = int(os.stat(full).st_mtime)
            os.utime(target, (whole, whole))
            total, done = total + size, done + 1
            if done == files:
                break
        copy += 1


def tiny(path: Path, files: int) -> None:
    """1000 files of some 110 bytes to a folder, nanosecond times as the kernel gives them."""
    numbers = random.Random(SEED)
    for start in range(0, files, 1000):
        folder = path / f"{start // 1000:04d}"
        folder.mkdir(parents=True)
        for index in range(min(1000, files - start)):
            fd = os.open(folder / f"f{index:03d}-{numbers.getrandbits(24):06x}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"%0110d" % numbers.getrandbits(300))
            os.close(fd)


def flat(path: Path, files: int) -> None:
    """One folder with that many empty files."""
    path.mkdir(parents=True)
    for index in range(files):
        os.close(os.open(path / f"file-{index:07d}", os.O_WRONLY | os.O_CREAT, 0o644))


def count(path: Path) -> tuple[int, int]:
    """(entries with the root, bytes of regular files)."""
    entries, size = 1, 0
    for folder, folders, names in os.walk(path):
        entries += len(folders) + len(names)
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
    return entries, size


def warm(path: Path) -> None:
    """Reads every file once, so that later runs find all in memory."""
    for folder, _folders, names in os.walk(path):
        for name in names:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            try:
                while os.read(fd, 1 << 20):
                    pass
            finally:
                os.close(fd)


def check_resident(path: Path) -> None:
    """Exits when the pages of a sample of the files (every 97th) are not, but for 2 %, in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = resident = step = 0
    for folder, _folders, names in os.walk(path):
        for name in names:
            step += 1
            if step % 97:
                continue
            full = os.path.join(folder, name)
            size = os.path.getsize(full)
            if not size:
                continue
            with open(full, "rb") as file:
                view = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            with view:
                length = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
                vector = (ctypes.c_ubyte * length)()
                anchor = ctypes.c_char.from_buffer(view)
                libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), vector)
                del anchor
                pages += length
                resident += sum(byte & 1 for byte in vector)
    if pages and resident / pages < 0.98:
        sys.exit(f"{path}: only {100 * resident / pages:.0f} % in memory: nothing measured here would mean anything")
