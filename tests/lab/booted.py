"""A lab host that systemd boots: as hosts.py makes them, but with systemd as its first process, for what timers do.

Here live boot(), cut(), again() and halt(); hosts.py's read, ssh, enter, inner_pid and inventory work on such a host
too. It runs by systemd-nspawn on a copy-on-write copy of this machine's root; network and clock are this machine's. Its
zone of time is its own, and at() chooses one in which its clock shows a given time: no clock has to be moved. With a
disk that is kept it can lose its power and come up again. Knows nothing of Stowage.

    python tests/lab/booted.py LAB boot NAME ADDRESS [--keep]   prints JSON as hosts.py's up
    python tests/lab/booted.py LAB cut NAME                     the power fails: nothing is said, nothing is written
    python tests/lab/booted.py LAB again NAME                   it comes up with the disk it had (--keep)
    python tests/lab/booted.py LAB outage NAME --when HOST FOLDER BYTES --seconds N
                                                                cut as soon as FOLDER of HOST holds BYTES, again after N
    python tests/lab/booted.py LAB at NAME HH:MM:SS             a zone of time in which its clock shows that now
    python tests/lab/booted.py LAB upper NAME                   prints the folder with all it wrote (--keep)
    python tests/lab/booted.py LAB halt NAME                    its end
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import hosts

PACKAGES = {"systemd-nspawn": "systemd-container", "systemctl": "systemd-sysv", "dbus-daemon": "dbus"}
INIT = r"""
set -eu
d=$1 name=$2
# systemd-nspawn notes its machines below /run, and makes folders in the group of its caller: both are thrown away
mount -t tmpfs -o mode=755 tmpfs /run
for tree in systemd unified; do
    if mkdir "/sys/fs/cgroup/$tree/$3" 2>/dev/null; then echo $$ > "/sys/fs/cgroup/$tree/$3/cgroup.procs"; fi
done
overlay() { mount -t overlay overlay -o "lowerdir=/,upperdir=$d/disk/upper,workdir=$d/disk/work" "$d/root"; }
if [ "$4" != keep ]; then
    mount -t tmpfs -o mode=755 tmpfs "$d/disk"
    mkdir "$d/disk/upper" "$d/disk/work"
    overlay
elif [ -e "$d/disk.img" ] || ! overlay 2>/dev/null; then
    # upper folders may not lie on an overlay themselves: a disk in a file serves then
    [ -e "$d/disk.img" ] || { truncate -s 8G "$d/disk.img"; mkfs.ext4 -q "$d/disk.img"; }
    mount -o loop "$d/disk.img" "$d/disk"
    mkdir -p "$d/disk/upper" "$d/disk/work"
    overlay
fi
cd "$d/root"
if [ "$5" = new ]; then
    # what this machine starts at boot is not wanted, and what keeps packages from starting services neither
    rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires var/lib/systemd/timers usr/sbin/policy-rc.d
    : > etc/machine-id
    echo "$name" > etc/hostname
    printf '127.0.0.1 localhost %s\n' "$name" > etc/hosts
    rm -f etc/ssh/ssh_host_* root/.bashrc root/.profile
    cp "$d/host_key" etc/ssh/ssh_host_ed25519_key
    cp "$d/host_key.pub" etc/ssh/ssh_host_ed25519_key.pub
    chmod 600 etc/ssh/ssh_host_ed25519_key
    mkdir -p root/.ssh
    cp "$d/../id.pub" root/.ssh/authorized_keys
    chmod 700 root/.ssh
    chmod 600 root/.ssh/authorized_keys
    cp "$d/sshd_config" etc/ssh/sshd_config
    mkdir etc/systemd/system/multi-user.target.wants
    ln -s /lib/systemd/system/ssh.service etc/systemd/system/multi-user.target.wants/ssh.service
fi
cd /
exec systemd-nspawn --quiet --register=no --keep-unit --machine="stowage-lab-$$" --directory="$d/root" --boot
"""


def ensure_packages() -> None:
    """Installs what is missing, as hosts.py does."""
    hosts.PACKAGES.update(PACKAGES)
    hosts.ensure_packages()


def boot(lab: Path, name: str, address: str, port: int = 2222, keep: bool = False) -> dict:
    """Boots a new host and waits until its systemd has started everything and its sshd answers; as hosts.up().

    keep: what it writes lies in a folder of the lab, for again(); else in memory.
    """
    if os.geteuid() != 0:
        sys.exit("lab hosts need root (namespaces and overlay mounts)")
    ensure_packages()
    lab = lab.resolve()
    key, folder = hosts.key_of(lab), lab / name
    halt(lab, name)
    for part in ("root", "disk/upper", "disk/work") if keep else ("root", "disk"):
        (folder / part).mkdir(parents=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / "host_key")], check=True
    )
    (folder / "sshd_config").write_text(hosts.SSHD.format(port=port, address=address))
    (folder / "init.sh").write_text(INIT)
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = folder / "known_hosts"
    known.write_text(f"[{address}]:{port} {public}\n")
    host = {"name": name, "address": address, "port": port, "key": str(key), "host_key": public,
            "known_hosts": str(known), "keep": keep}  # fmt: skip
    return _begin(lab, host, "new")


def again(lab: Path, name: str) -> dict:
    """A host that was cut off comes up with the disk it had."""
    lab = lab.resolve()
    host = hosts.read(lab, name)
    if not host.get("keep"):
        sys.exit(f"the disk of lab host {name} was not kept")
    _end(lab / name, host["pid"])
    return _begin(lab, host, "old")


def _begin(lab: Path, host: dict, age: str) -> dict:
    name = host["name"]
    folder = lab / name
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", str(folder / "init.sh"), str(folder), name,
             _group(folder), "keep" if host["keep"] else "lose", age],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
        )  # fmt: skip
    host = {**host, "pid": process.pid}
    (folder / "host.json").write_text(json.dumps(host))
    # its first process answers before its sshd: asked so, a host that shows another key since has come up, too
    deadline = time.monotonic() + 90
    while not _answers(lab, host):
        if process.poll() is not None or time.monotonic() > deadline:
            _end(folder, host["pid"])
            sys.exit(f"lab host {name} does not boot:\n{(folder / 'log').read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)
    return host


def _answers(lab: Path, host: dict) -> bool:
    """Whether its systemd has started everything, and its sshd says who it is."""
    try:
        asked = [*hosts.enter(lab, host["name"]), "systemctl", "is-system-running"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip()
        if said not in ("running", "degraded"):
            return False
        with socket.create_connection((host["address"], host["port"]), 5) as line:
            line.settimeout(5)
            return line.recv(4) == b"SSH-"
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return False


def upper(lab: Path, name: str) -> Path:
    """The folder with all that a host wrote since it was new, as overlayfs keeps it."""
    folder = lab.resolve() / name
    return Path(f"/proc/{hosts.read(lab, name)['pid']}/root{folder}/disk/upper")


def cut(lab: Path, name: str) -> None:
    """The power of a host fails: whoever talks with it hears nothing more, not even the end of the line."""
    space = os.readlink(f"/proc/{hosts.inner_pid(lab, name)}/ns/pid")
    for _ in range(3):  # once more for what was born meanwhile
        for place in Path("/proc").glob("[0-9]*/ns/pid"):
            try:
                if os.readlink(place) == space:
                    os.kill(int(place.parts[2]), signal.SIGSTOP)
            except (FileNotFoundError, ProcessLookupError):
                pass


def outage(lab: Path, name: str, when: tuple, seconds: float, limit: float = 300) -> int:
    """cut() as soon as (host, folder, bytes) is true, then again(); the bytes that were seen, 0 when it never was."""
    host, place, least = when
    root = Path(f"/proc/{hosts.inner_pid(lab, host)}/root")
    deadline = time.monotonic() + limit
    while (seen := _held(root / place.lstrip("/"))) < int(least):
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.02)
    cut(lab, name)
    time.sleep(seconds)
    again(lab, name)
    return seen


def _held(folder: Path) -> int:
    total = 0
    for place, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                pass
    return total


def _end(folder: Path, pid: int) -> None:
    """Ends the processes of a host at once; its first one takes all others along."""
    if not _ours(folder, pid):
        return
    for victim in (*(int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()), pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not _ended(pid):
        time.sleep(0.05)


def halt(lab: Path, name: str) -> None:
    """Ends a host as a power button does, by force when that takes long, and removes all it wrote."""
    lab = lab.resolve()
    folder = lab / name
    if (folder / "host.json").exists():
        pid = hosts.read(lab, name)["pid"]
        if _ours(folder, pid) and not _stopped(pid):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not _ended(pid):
                time.sleep(0.1)
        _end(folder, pid)
    hosts.down(lab, [name])
    shutil.rmtree(folder, ignore_errors=True)
    for tree in ("systemd", "unified"):
        for path in sorted(Path("/sys/fs/cgroup", tree, _group(folder)).glob("**/"), reverse=True):
            try:
                path.rmdir()
            except OSError:
                pass


def _ours(folder: Path, pid: int) -> bool:
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _stopped(pid: int) -> bool:
    """Whether cut() has stopped its first process, which cannot be asked to end then."""
    try:
        first = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        return Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def _group(folder: Path) -> str:
    return f"stowage-lab-{folder.parent.name}-{folder.name}"


def _ended(pid: int) -> bool:
    try:
        return bool(os.waitpid(pid, os.WNOHANG)[0])
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()


def at(lab: Path, name: str, shown: int) -> None:
    """Gives a host a zone of time in which its clock shows so many seconds after midnight now."""
    offset = (shown - int(time.time()) + 43200) % 86400 - 43200
    body = struct.pack(">4sc15x6L", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb", offset, 0, 0) + b"LAB\0"
    sign, rest = "-" if offset > 0 else "+", abs(offset)  # POSIX counts west of Greenwich
    rule = f"<LAB>{sign}{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    zone = Path(f"/proc/{hosts.inner_pid(lab, name)}/root/etc/localtime")
    fresh = zone.with_name("localtime.new")
    fresh.write_bytes(body + body + f"\n{rule}\n".encode())
    fresh.replace(zone)


def main() -> int:
    parser = argparse.ArgumentParser(description="lab hosts that systemd boots")
    parser.add_argument("lab", type=Path, help="a scratch folder")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for word in ("boot", "again", "cut", "outage", "at", "upper", "halt"):
        verb = verbs.add_parser(word)
        verb.add_argument("name")
        if word == "at":
            verb.add_argument("shown")
        if word == "outage":
            verb.add_argument("--when", nargs=3, metavar=("HOST", "FOLDER", "BYTES"), required=True)
            verb.add_argument("--seconds", type=float, default=10)
        if word == "boot":
            verb.add_argument("address")
            verb.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.verb == "boot":
        print(json.dumps(boot(options.lab, options.name, options.address, keep=options.keep)))
    elif options.verb == "again":
        print(json.dumps(again(options.lab, options.name)))
    elif options.verb == "outage":
        seen = outage(options.lab, options.name, tuple(options.when), options.seconds)
        print(seen)
        return 0 if seen else 1
    elif options.verb == "at":
        hours, minutes, seconds = map(int, options.shown.split(":"))
        at(options.lab, options.name, hours * 3600 + minutes * 60 + seconds)
    elif options.verb == "upper":
        print(upper(options.lab, options.name))
    else:
        {"cut": cut, "halt": halt}[options.verb](options.lab, options.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
