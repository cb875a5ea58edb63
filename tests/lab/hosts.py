"""Lab hosts: real machines as far as a backup can tell, without containers.

Each host is a copy-on-write copy (overlayfs) of this machine's root in mount, UTS and PID namespaces of its
own, with a real sshd on a loopback address. What is installed or written there is gone when it goes down;
nothing of this machine is touched. Root is needed. Used by make demo, make bench, molecule and the
integration tests; knows nothing of Stowage.

    python tests/lab/hosts.py LAB up web1 127.77.1.1 [--port 2222]     prints JSON: name, address, port, key, root, pid
    python tests/lab/hosts.py LAB exec web1 COMMAND…
    python tests/lab/hosts.py LAB down [web1 …]                        all when none is named
    python tests/lab/hosts.py LAB inventory                            ansible variables of each host as JSON

Every host has /usr/local/bin/python3-nozstd: the system's Python in a mount namespace where libzstd is hidden.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = {"sshd": "openssh-server", "ssh": "openssh-client", "sudo": "sudo", "unshare": "util-linux", "zstd": "zstd"}
INIT = r"""
set -eu
d=$1 name=$2
if ! mount -t overlay overlay -o "lowerdir=/,upperdir=$d/disk/upper,workdir=$d/disk/work" "$d/root" 2>/dev/null; then
    # upper folders may not lie on an overlay themselves: a tmpfs serves then
    mount -t tmpfs -o mode=755 tmpfs "$d/disk"
    mkdir "$d/disk/upper" "$d/disk/work"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$d/disk/upper,workdir=$d/disk/work" "$d/root"
fi
cd "$d/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/sshd run/lock root/.ssh
hostname "$name"
echo "$name" > etc/hostname
printf '127.0.0.1 localhost %s\n' "$name" > etc/hosts
rm -f etc/ssh/ssh_host_*
cp "$d/host_key" etc/ssh/ssh_host_ed25519_key
cp "$d/host_key.pub" etc/ssh/ssh_host_ed25519_key.pub
chmod 600 etc/ssh/ssh_host_ed25519_key
chmod 700 root/.ssh
# what the shell of this machine does at login (pyenv waits for a lock) is not wanted at every command
rm -f root/.bashrc root/.profile
cp "$d/../id.pub" root/.ssh/authorized_keys
chmod 600 root/.ssh/authorized_keys
cp "$d/sshd_config" etc/ssh/sshd_config
cp "$d/python3-nozstd" usr/local/bin/python3-nozstd
chmod 755 usr/local/bin/python3-nozstd
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside 2>/dev/null || true
exec /usr/sbin/sshd -D -e
"""
SSHD = """\
Port {port}
ListenAddress {address}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
PrintMotd no
UseDNS no
MaxStartups 100
Subsystem sftp /usr/lib/openssh/sftp-server
"""
NOZSTD = """\
#!/bin/sh
# Python as on a machine without any zstd library
exec unshare --mount sh -c 'for f in /usr/lib/*/libzstd.so.1*; do mount --bind /dev/null "$f"; done
exec /usr/bin/python3 "$@"' sh "$@"
"""


def missing_packages() -> list[str]:
    """Debian packages whose programs are not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted({package for program, package in PACKAGES.items() if not shutil.which(program, path=path)})


def ensure_packages() -> None:
    """Installs what is missing; exits with the list when not root."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0:
        sys.exit(f"missing Debian packages: {' '.join(missing)}; install them or run as root")
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL, env=environment)
    subprocess.run(
        [*apt, "install", "-y", "--no-install-recommends", *missing],
        check=True, stdout=subprocess.DEVNULL, env=environment,
    )  # fmt: skip


def key_of(lab: Path) -> Path:
    """The private key that opens root of every host of the lab, made when absent."""
    lab.mkdir(mode=0o755, parents=True, exist_ok=True)
    key = lab / "id"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key)], check=True)
    return key


def up(lab: Path, name: str, address: str, port: int = 2222) -> dict:
    """Starts a host and waits until its sshd answers; an existing one of that name is ended first."""
    if os.geteuid() != 0:
        sys.exit("lab hosts need root (namespaces and overlay mounts)")
    ensure_packages()
    lab = lab.resolve()
    key = key_of(lab)
    down(lab, [name])
    folder = lab / name
    for part in ("root", "disk/upper", "disk/work"):
        (folder / part).mkdir(parents=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / "host_key")], check=True
    )
    (folder / "sshd_config").write_text(SSHD.format(port=port, address=address))
    (folder / "python3-nozstd").write_text(NOZSTD)
    (folder / "init.sh").write_text(INIT)
    log = open(folder / "log", "ab")
    process = subprocess.Popen(
        ["unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child", "--propagation", "private",
         "sh", str(folder / "init.sh"), str(folder), name],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
    )  # fmt: skip
    host = {"name": name, "address": address, "port": port, "key": str(key), "pid": process.pid}
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    host["host_key"] = public
    (folder / "known_hosts").write_text(f"[{address}]:{port} {public}\n")
    host["known_hosts"] = str(folder / "known_hosts")
    (folder / "host.json").write_text(json.dumps(host))
    deadline = time.monotonic() + 30
    while subprocess.run([*ssh(lab, name), "true"], capture_output=True).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"lab host {name} does not come up:\n{(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.1)
    return host


def read(lab: Path, name: str) -> dict:
    """What up() returned for a host."""
    return json.loads((lab / name / "host.json").read_text())


def names(lab: Path) -> list[str]:
    """The hosts of a lab."""
    return sorted(path.parent.name for path in lab.glob("*/host.json"))


def ssh(lab: Path, name: str) -> list[str]:
    """The ssh command line that opens root on a host, to be followed by a command."""
    host = read(lab, name)
    return [
        "ssh", "-F", "none", "-T", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={host['known_hosts']}",
        "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", "-i", host["key"],
        "-p", str(host["port"]), f"root@{host['address']}",
    ]  # fmt: skip


def inner_pid(lab: Path, name: str) -> int:
    """The pid, seen from outside, of a host's first process."""
    pid = read(lab, name)["pid"]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0])


def enter(lab: Path, name: str) -> list[str]:
    """The command line that runs a command inside a host without ssh."""
    return ["nsenter", "-t", str(inner_pid(lab, name)), "-m", "-u", "-i", "-p", "-r", "-w"]


def down(lab: Path, wanted: list[str]) -> None:
    """Ends hosts and removes all they wrote; ends only processes that up() started."""
    for name in wanted or names(lab):
        folder = lab / name
        if not (folder / "host.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            continue
        pid = read(lab, name)["pid"]
        try:
            ours = str(folder.resolve()).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            ours = False
        if ours:
            os.kill(pid, signal.SIGKILL)
            for _ in range(100):
                try:
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        break
                except ChildProcessError:
                    if not Path(f"/proc/{pid}").exists():
                        break
                time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def inventory(lab: Path) -> dict:
    """Ansible connection variables of each host."""
    return {
        name: {
            "ansible_host": read(lab, name)["address"],
            "ansible_port": read(lab, name)["port"],
            "ansible_user": "root",
            "ansible_ssh_private_key_file": read(lab, name)["key"],
            "ansible_ssh_common_args": "-F none -o StrictHostKeyChecking=yes "
            f"-o UserKnownHostsFile={read(lab, name)['known_hosts']}",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        for name in names(lab)
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="lab hosts: overlay copies of this machine with a real sshd")
    parser.add_argument("lab", type=Path, help="a scratch folder")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("up")
    verb.add_argument("name")
    verb.add_argument("address")
    verb.add_argument("--port", type=int, default=2222)
    verb = verbs.add_parser("exec")
    verb.add_argument("name")
    verb.add_argument("command", nargs=argparse.REMAINDER)
    verb = verbs.add_parser("down")
    verb.add_argument("names", nargs="*")
    verbs.add_parser("inventory")
    options = parser.parse_args()
    if options.verb == "up":
        print(json.dumps(up(options.lab, options.name, options.address, options.port)))
    elif options.verb == "exec":
        return subprocess.run([*enter(options.lab, options.name), *options.command]).returncode
    elif options.verb == "down":
        down(options.lab, options.names)
    else:
        print(json.dumps(inventory(options.lab), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
