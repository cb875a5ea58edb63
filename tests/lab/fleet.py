"""A fleet of real sshd's on loopback, some of them down or hostile, and a server that backs it up. For tests only.

    python tests/lab/fleet.py --clients 300 --rounds 2      JSON: times, processor time, memory, what each run said

The whole fleet lives in network, process and mount namespaces of its own: no port of it meets another's, and it ends
with the first of its processes, however that ends. One night of all clients is measured beside as many bare logins by
the engine's own ssh command (`ssh … true`), at once as many, turn by turn; then some go down and some turn hostile
(tests/lab/spoiled.py says how), and the night is run again. What must hold of the numbers is the tests' to say.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import one_command
from groups import Group, Peak, made

ROOT = Path(__file__).resolve().parents[2]
PORT = 2222
SSHD = "/usr/sbin/sshd"
INSIDE = "STOWAGE_FLEET_INSIDE"
FILES, SIZE = 20, 5000  # of each client's tree; half of the bytes compress
LIMIT = 400 << 20


def python_of_clients() -> str:
    """The Python that the forced command starts: the distribution's, as the role writes it."""
    return "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable


class Host:
    """One client: an sshd, a tree, an agent.json."""

    def __init__(self, fleet: "Fleet", number: int):
        self.fleet, self.number = fleet, number
        self.name = f"c{number:03d}"
        self.address = f"127.78.{number // 200}.{number % 200 + 1}"
        self.folder = fleet.base / "clients" / self.name
        self.config = self.folder / "agent.json"
        self.tree = self.folder / "tree"

    def make(self) -> None:
        """All its files, and its registration at the server."""
        self.tree.mkdir(parents=True)
        for number in range(FILES):
            half = os.urandom(SIZE // 2)
            (self.tree / f"file {number}").write_bytes(half + f"{self.name} ".encode() * (SIZE // 2 // 5))
            os.utime(self.tree / f"file {number}", (1_700_000_000, 1_700_000_000))
        options = {"path": str(self.tree), "include": [], "exclude": [], "one_file_system": True, "before": None,
                   "after": None}  # fmt: skip
        source = {"type": "tree", "options": options, "encrypt": "none", "recipients": []}
        self.config.write_text(json.dumps({"schema": 1, "client": self.name, "sources": {"data": source}}))
        self.config.chmod(0o600)
        text = one_command.CONFIG.format(port=PORT, address=self.address, folder=self.folder)
        (self.folder / "config").write_text(text + "MaxStartups 100\n")
        self.pin(self.key())
        self.force(f"{python_of_clients()} -I {self.fleet.agent} --config {self.config} serve")
        self.register()

    def register(self, policy: str = "standard") -> None:
        """What the server knows of it."""
        source = {"type": "tree", "path": str(self.tree), "policy": policy}
        client = {"transport": "ssh", "address": self.address, "port": PORT, "user": "root",
                  "agent": str(self.fleet.agent), "agent_config": str(self.config),
                  "sources": {"data": source}}  # fmt: skip
        registered = self.fleet.base / "clients.d" / f"{self.name}.yml"
        registered.write_text(json.dumps({"clients": {self.name: client}}))  # JSON is YAML

    def key(self) -> str:
        """Gives it a new host key; the public half as known_hosts has it."""
        return write_key(self.folder / "key")

    def pin(self, public: str) -> None:
        (self.fleet.base / "known_hosts.d" / self.name).write_text(f"{self.name} {public}\n")

    def force(self, command: str) -> None:
        """What the server's key may do; the other key may do nothing, which is what a bare login is measured by."""
        keys = [f'restrict,command="{command}" {self.fleet.public}', f'restrict,command="true" {self.fleet.bare}']
        (self.folder / "authorized_keys").write_text("\n".join(keys) + "\n")


def write_key(path: Path) -> str:
    """A new key of ssh's at path, 0600; its public half. ssh-keygen would take 10 ms for each."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()))
    return key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()


class Fleet:
    """All hosts and the server, below base."""

    def __init__(self, base: Path, count: int, at_once: int, groups: Optional[Dict[str, Any]] = None):
        self.base, self.at_once, self.groups = base, at_once, groups or {}
        self.agent = base / "agent" / "agent.pyz"
        self.hosts = [Host(self, number) for number in range(count)]
        self.listeners: List[Any] = []
        self.use = "2 GB"  # of the holding disk

    def make(self) -> None:
        """The server's folders and keys, and every host."""
        from backupcore.app.agent_build import build_agent

        for name in ("clients", "clients.d", "known_hosts.d", "agent", "nas"):
            (self.base / name).mkdir()
        build_agent(str(self.agent))
        self.public, self.bare = write_key(self.base / "id"), write_key(self.base / "bare")
        self.write()
        for host in self.hosts:
            host.make()

    def write(self, **more: Any) -> None:
        """stowage.yml."""
        config = {
            "state": str(self.base / "state"), "holding": [{"path": str(self.base / "holding"), "use": self.use}],
            "targets": {"nas": {"type": "directory", "path": str(self.base / "nas")}},
            "ssh": {"key": str(self.base / "id"), "known_hosts": str(self.base / "known_hosts.d")},
            "timeouts": {"connect": 10, "silence": 60}, "dumps_at_once": self.at_once,
            "policies": {"sealed": {"encrypt": "client"}}, **more,
        }  # fmt: skip
        (self.base / "stowage.yml").write_text(json.dumps(config))
        (self.base / "holding").mkdir(exist_ok=True)

    def start(self) -> None:
        """Starts every sshd and waits until the last one listens."""
        Path("/run/sshd").mkdir(exist_ok=True)
        script = 'for one in "$@"; do /usr/sbin/sshd -f "$one/config" -E "$one/log" || exit 1; done'
        folders = [str(host.folder) for host in self.hosts]
        command = ["sh", "-c", script, "sh", *folders]
        group = self.groups.get("clients")
        subprocess.run(group.command(*command) if group else command, check=True)
        for host in self.hosts:
            self.wait(host)

    def wait(self, host: Host) -> None:
        """Until one host's sshd listens."""
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host.address, PORT), 5):
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"{host.name}: {(host.folder / 'log').read_text()}")
            time.sleep(0.05)

    def stop(self, host: Host) -> None:
        """Ends one host's sshd, by its process number."""
        config = str(host.folder / "config").encode()
        for folder in Path("/proc").glob("[0-9]*"):  # of this namespace
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes()
                if config in words and b"sshd" in words:
                    os.kill(int(folder.name), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection((host.address, PORT), 1).close()
            except OSError:
                return
            time.sleep(0.02)
        raise SystemExit(f"{host.name} does not go down")

    # what is measured

    def bare_logins(self) -> None:
        """`ssh … true` at every host, by the engine's own command line, as many at once as the night has dumps."""
        from backupcore.app.engine import Engine
        from backupcore.dump import transport

        settings = replace(Engine(self.base / "stowage.yml").settings, ssh_key=self.base / "bare")
        commands = [transport._ssh_command(settings, settings.clients[host.name], ["true"]) for host in self.hosts]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        group = self.groups.get("server")

        def one(command: List[str]) -> int:
            return subprocess.run(command, stdin=subprocess.DEVNULL, env=environment, check=False).returncode

        inside = group.joins if group else []
        pid = os.fork()  # a process of its own, so that all it starts counts as the server's
        if not pid:
            for path in inside:
                path.write_text("0")
            with ThreadPoolExecutor(self.at_once) as pool:
                failed = [code for code in pool.map(one, commands) if code]
            os._exit(1 if failed else 0)
        _pid, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit("a bare login failed")

    def stowage(self, *words: str, limit: float = 1200) -> Dict[str, Any]:
        """Runs the command as a process of its own; its JSON, its status, its time."""
        command = [sys.executable, "-m", "backupcore", "--config", str(self.base / "stowage.yml"), "--json", *words]
        group = self.groups.get("server")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its byte code
        begun = time.monotonic()
        process = subprocess.Popen(
            group.command(*command) if group else command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment, cwd="/",
        )  # fmt: skip
        peak = Peak(group, process.pid)
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\nended after {limit} s"
        finally:
            peak.close()
        try:
            answer = json.loads(out)
        except ValueError:
            raise SystemExit(f"stowage {' '.join(words)}: {process.returncode}\n{out}\n{err}") from None
        return {"answer": answer, "status": process.returncode, "seconds": time.monotonic() - begun,
                "peak": peak.found, "largest": peak.largest, "own_cpu": peak.cpu}  # fmt: skip

    def words(self, *words: str) -> List[str]:
        """What the command says to people."""
        command = [sys.executable, "-m", "backupcore", "--config", str(self.base / "stowage.yml"), *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, env=environment, cwd="/", check=False, timeout=120)
        return [done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")]

    def catalog(self) -> Dict[str, Any]:
        """Dumps and copies by name, and what SQLite says of itself."""
        with contextlib.closing(sqlite3.connect(self.base / "state" / "catalog.sqlite")) as catalog:
            return {
                "integrity": [*catalog.execute("pragma integrity_check"), *catalog.execute("pragma foreign_key_check")],
                "dumps": dict(catalog.execute("select id, holding from dumps")),
                "copies": [list(row) for row in catalog.execute("select dump, target, state from copies")],
                "running": catalog.execute("select count(*) from runs where ended_ns is null").fetchone()[0],
            }

    def left(self) -> List[str]:
        """What a night leaves and should not: half-made dumps, and processes of it or of agents."""
        found = [str(path.relative_to(self.base)) for folder in ("holding/.incoming", "state/pending")
                 for path in (self.base / folder).rglob("*") if not path.is_dir()]  # fmt: skip
        parts = {path.parent for path in (self.base / "nas").rglob("image-*")}
        found += [str(path.relative_to(self.base)) for path in parts if not (path / "manifest.json").exists()]
        deadline = time.monotonic() + 20  # an agent sees its closed line within 10 s
        while True:
            running = []
            for folder in Path("/proc").glob("[0-9]*"):  # of this namespace
                with contextlib.suppress(OSError):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    # what a hostile client does on its own machine is its affair
                    if folder.name != "1" and line and not any(word in line for word in ("[listener]", "hostile.py")):
                        running.append(line)
            if not running or time.monotonic() > deadline:
                return [*found, *running]
            time.sleep(0.2)

    def measured(self, act: Any) -> Dict[str, Any]:
        """act(), with its seconds and the processor time of both sides."""
        before = {name: group.cpu() for name, group in self.groups.items()}
        begun = time.monotonic()
        found = act() or {}
        found = {**found, "seconds": time.monotonic() - begun}
        time.sleep(0.3)  # the last sshd's end
        return {**found, "cpu": {name: group.cpu() - before[name] for name, group in self.groups.items()}}

    def bytes_over(self, size: int) -> float:
        """Seconds that size bytes take over one ssh connection that is there, written to a file."""
        host, path = self.hosts[0], self.base / "bytes"
        path.write_bytes(os.urandom(size))
        keys = host.folder / "authorized_keys"
        kept = keys.read_text()
        keys.write_text(f'restrict,command="sleep 1; date +%s.%N >&2; cat {path}; date +%s.%N >&2" {self.public}\n')
        command = ["ssh", "-F", "none", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o",
                   f"UserKnownHostsFile={self.base}/known_hosts.d/{host.name}", "-o", f"HostKeyAlias={host.name}",
                   "-i", str(self.base / "id"), "-p", str(PORT), f"root@{host.address}"]  # fmt: skip
        with open(self.base / "bytes.came", "wb") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=True, text=True)
        keys.write_text(kept)
        begun, ended = map(float, done.stderr.split()[-2:])
        return ended - begun


def inside(options: argparse.Namespace) -> Dict[str, Any]:
    """All of it, in namespaces that are ours."""
    import spoiled

    with socket.socket() as any_socket:  # loopback begins down; 0x8914 is SIOCSIFFLAGS, 1 is IFF_UP
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))
    profile = Path("~/.bashrc").expanduser()
    if profile.exists():  # what a developer's shell does at its start is no part of a login
        subprocess.run(["mount", "--bind", "/dev/null", profile], check=True)
    names = json.loads(os.environ[INSIDE])
    groups = {name: Group([Path(folder) for folder in folders]) for name, folders in names.items()}
    fleet = Fleet(options.base, options.clients, options.at_once, groups)
    fleet.use = options.use
    fleet.make()
    fleet.write(**options.config)
    begun = time.monotonic()
    fleet.start()
    told: Dict[str, Any] = {"clients": options.clients, "at_once": options.at_once, "start": time.monotonic() - begun,
                            "bare": [], "nights": [], "limited": bool(groups)}  # fmt: skip
    if groups:
        groups["server"].limit(LIMIT)
    for number in range(options.rounds):
        told["bare"].append(fleet.measured(fleet.bare_logins))
        words = ["run", "--level", "0"] if number else ["run"]
        told["nights"].append(fleet.measured(lambda words=words: fleet.stowage(*words)))
        seen = {name: value for name, value in told["nights"][-1].items() if name != "answer"}
        print(json.dumps({"bare": told["bare"][-1], "night": seen}), file=sys.stderr)
    if told["nights"]:
        told["bytes_seconds"] = fleet.bytes_over(told["nights"][-1]["answer"]["bytes"])
    if options.down or options.hostile:
        down = fleet.hosts[len(fleet.hosts) - options.down :]
        bad = fleet.hosts[len(fleet.hosts) - options.down - options.hostile : len(fleet.hosts) - options.down]
        told["down"], told["hostile"] = spoiled.spoil(fleet, down, bad, options.kinds)
        told["bad_night"] = fleet.measured(lambda: fleet.stowage("run", "--level", "0"))
        told["catalog"] = fleet.catalog()
        told["left"] = fleet.left()
        told["verify"] = fleet.stowage("verify", "--full", "--target", "nas")["answer"]
        for name in [name for name, kind in told["hostile"].items() if kind == "climb"]:
            told["climbed"] = fleet.words("restore", name, "data", "--to", str(fleet.base / "out"))
        told["words"] = [fleet.words(*words) for words in (("report",), ("find", "owned"))]
        told["owned"] = [path for path in ("/tmp/owned", "/etc/owned", "/owned") if os.path.lexists(path)]
        told["owned"] += [str(path) for path in fleet.base.rglob("*owned*")]
    told["killed"] = groups["server"].killed() if groups else False
    return told


def run(*words: str, limit: float = 900) -> Dict[str, Any]:
    """Runs this file as a process of its own; what it tells."""
    command = [sys.executable, __file__, *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    # in a session of its own and with its namespace: whatever happens to it, nothing of it stays
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException:
        process.terminate()  # it takes its groups and files away
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode:
        raise AssertionError(f"{process.returncode}\n{out[-4000:]}\n{err[-8000:]}")
    return json.loads(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--down", type=int, default=0)
    parser.add_argument("--hostile", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[], help="of hostility (default: one after the other)")
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2, help="of bare logins and a night of good clients")
    parser.add_argument("--use", default="2 GB", help="of the holding disk")
    parser.add_argument("--config", type=json.loads, default={}, help="more of stowage.yml, as JSON")
    parser.add_argument("--base", type=Path)
    options = parser.parse_args()
    if INSIDE in os.environ:
        print(json.dumps(inside(options)))
        return 0
    if os.geteuid() != 0:
        sys.exit("a fleet needs root: namespaces, sshd's")
    found = {name: made(name) for name in ("server", "clients")}
    known = {name: group for name, group in found.items() if group is not None}
    base = options.base or Path(tempfile.mkdtemp(prefix="stowage-fleet-"))
    base.mkdir(exist_ok=True)
    names = {name: [str(folder) for folder in group.folders] for name, group in known.items()}
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
               sys.executable, __file__, *sys.argv[1:]]  # fmt: skip
    if options.base is None:
        command += ["--base", str(base)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return subprocess.run(command, env={**os.environ, INSIDE: json.dumps(names)}, check=False).returncode
    finally:
        for group in known.values():
            group.close()
        if options.base is None:
            shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    sys.exit(main())
