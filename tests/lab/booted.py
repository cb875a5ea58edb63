"""A lab host that systemd boots: as hosts.py makes them, but with systemd as its first process, for what timers do.

Here live boot() and halt(); hosts.py's read, ssh, enter, inner_pid and inventory work on such a host too. It runs by
systemd-nspawn on a copy-on-write copy of this machine's root; network and clock are this machine's. Its zone of time is
its own, and at() chooses one in which its clock shows a given time: no clock has to be moved. Knows nothing of Stowage.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
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
mount -t tmpfs -o mode=755 tmpfs "$d/disk"
mkdir "$d/disk/upper" "$d/disk/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$d/disk/upper,workdir=$d/disk/work" "$d/root"
cd "$d/root"
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
cd /
exec systemd-nspawn --quiet --register=no --keep-unit --machine="stowage-lab-$$" --directory="$d/root" --boot
"""


def ensure_packages() -> None:
    """Installs what is missing, as hosts.py does."""
    hosts.PACKAGES.update(PACKAGES)
    hosts.ensure_packages()


def boot(lab: Path, name: str, address: str, port: int = 2222) -> dict:
    """Boots a host and waits until its systemd has started everything and its sshd answers; as hosts.up()."""
    if os.geteuid() != 0:
        sys.exit("lab hosts need root (namespaces and overlay mounts)")
    ensure_packages()
    lab = lab.resolve()
    key, folder = hosts.key_of(lab), lab / name
    halt(lab, name)
    for part in ("root", "disk"):
        (folder / part).mkdir(parents=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / "host_key")], check=True
    )
    (folder / "sshd_config").write_text(hosts.SSHD.format(port=port, address=address))
    (folder / "init.sh").write_text(INIT)
    log = open(folder / "log", "ab")
    process = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", str(folder / "init.sh"), str(folder), name,
         _group(folder)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
    )  # fmt: skip
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = folder / "known_hosts"
    known.write_text(f"[{address}]:{port} {public}\n")
    host = {"name": name, "address": address, "port": port, "key": str(key), "pid": process.pid, "host_key": public,
            "known_hosts": str(known)}  # fmt: skip
    (folder / "host.json").write_text(json.dumps(host))
    deadline = time.monotonic() + 60
    while subprocess.run([*hosts.ssh(lab, name), "systemctl", "is-system-running"], capture_output=True,
                         text=True).stdout.strip() not in ("running", "degraded"):  # fmt: skip
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"lab host {name} does not boot:\n{(folder / 'log').read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)
    return host


def halt(lab: Path, name: str) -> None:
    """Ends a host as a power button does, by force when that takes long, and removes all it wrote."""
    folder = lab.resolve() / name
    if (folder / "host.json").exists():
        pid = hosts.read(lab, name)["pid"]
        try:
            ours = str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            ours = False
        if ours:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not _ended(pid):
                time.sleep(0.1)
    hosts.down(lab, [name])
    shutil.rmtree(folder, ignore_errors=True)
    for tree in ("systemd", "unified"):
        for path in sorted(Path("/sys/fs/cgroup", tree, _group(folder)).glob("**/"), reverse=True):
            try:
                path.rmdir()
            except OSError:
                pass


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
