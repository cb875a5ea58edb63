"""A server with real agents: on this machine, and behind real sshd's on loopback addresses. For tests only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import agent_file
import one_command

from backupcore.catalog.store import Catalog
from backupcore.dump import driver, history, runlock, sweep
from backupcore.keys import store
from backupcore.schedule import bases
from backupcore.settings import Client, HoldingDisk, Policy, Settings, Source

# a port of its own for each process of a parallel run: the addresses are the same in several files
PORT = 2310 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
SSHD = "/usr/sbin/sshd"


class Lab:
    """A server at base. What night() made stands in planned, swept, run and results."""

    def __init__(self, base: Path, **values):
        self.base = base
        self.agent = base / "agent.pyz"
        if not self.agent.exists():
            agent_file.put(self.agent)
        for name in ("holding", "known_hosts.d"):
            (base / name).mkdir(mode=0o700, exist_ok=True)
        known = {
            "file": base / "stowage.yml", "state": base / "state", "keys": base / "keys",
            "holding": (HoldingDisk(base / "holding", 1 << 33),), "cycle_days": 7, "targets": {}, "policies": {},
            "clients": {}, "connect_timeout": 10, "silence_timeout": 60, "known_hosts": base / "known_hosts.d",
            "ssh_key": base / "id",
        }  # fmt: skip
        self.settings = Settings(**{**known, **values})
        self.catalog = Catalog(base / "state" / "catalog.sqlite")
        self.events = []

    def set(self, **values):
        self.settings = replace(self.settings, **values)

    def client(self, name, trees, policy=None, agent_json=None, **values):
        """Adds a client whose sources are the trees: name -> path, or name -> options."""
        options = {one: value if isinstance(value, dict) else {"path": str(value)} for one, value in trees.items()}
        known = {"include": [], "exclude": [], "one_file_system": True, "before": None, "after": None}
        policy = policy or Policy("standard")
        seal = {"encrypt": "none", "recipients": []}
        if policy.encrypt == "client":
            seal = {"encrypt": "client", "recipients": [one.public for one in store.active(self.settings.keys)]}
        declared = {one: {"type": "tree", "options": {**known, **value}, **seal} for one, value in options.items()}
        config = self.base / f"{name}.agent.json"
        new = config.with_suffix(f".{os.getpid()}.new")  # in one step: some tests kill whoever does this
        new.write_text(json.dumps(agent_json or {"schema": 1, "client": name, "sources": declared}))
        new.chmod(0o600)
        new.replace(config)
        sources = {one: Source(name, one, "tree", policy, value) for one, value in options.items()}
        client = Client(
            name,
            sources,
            transport="local",
            agent_python=sys.executable,
            agent=str(self.agent),
            agent_config=str(config),
        )
        self.settings = replace(self.settings, clients={**self.settings.clients, name: replace(client, **values)})
        return self.settings.clients[name]

    def night(self, level=None, **more):
        """Lock, sweep, plan, dump; {client:source: result}. more: for the driver."""
        with runlock.hold(self.settings):
            self.swept = sweep.sweep(self.settings, self.catalog)
            sources = [(client.name, name) for client in self.settings.clients.values() for name in client.sources]
            past = history.gather(self.settings, self.catalog)
            self.planned = [bases.Planned(*one, *bases.choose(past.get(one, ()), level)) for one in sources]
            self.run = self.catalog.begin_run("run")
            results = driver.run_dumps(
                self.settings, self.catalog, self.planned, run=self.run, progress=self.events.append, **more
            )  # fmt: skip
        self.results = {f"{result.client}:{result.source}": result for result in results}
        return self.results

    def latest(self, client, source):
        return self.catalog.latest(client, source)

    def restore_by_hand(self, client, source, dest):
        """Unpacks the newest dump of a source and what it builds on with GNU tar."""
        dest.mkdir()
        for row in self.catalog.chain(self.latest(client, source).id):
            tool = {"zstd": "zstd -dcq", "gzip": "gzip -dc", "none": "cat"}[row.codec]
            script = f'for part in "$1"/image-*; do {tool} "$part" || exit 1; done'
            parts = subprocess.Popen(["sh", "-c", script, "-", row.holding], stdout=subprocess.PIPE)
            tar = [
                "tar",
                "-xpG",
                "--numeric-owner",
                "--xattrs",
                "--xattrs-include=*",
                "--acls",
                "-C",
                str(dest),
                "-f",
                "-",
            ]
            subprocess.run(tar, stdin=parts.stdout, check=True, env={**os.environ, "LC_ALL": "C"})
            assert parts.wait() == 0

    # ssh

    def make_key(self):
        """The server's own key."""
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / "id")], check=True)


class Sshd:
    """A real sshd at an address. It forces `command` for the lab's key, restricted, as the role does."""

    def __init__(self, lab: Lab, name: str, address: str, command: str):
        self.lab, self.name, self.address = lab, name, address
        self.folder = lab.base / f"sshd-{name}"
        self.folder.mkdir(exist_ok=True)
        self.process = None
        if not (self.folder / "key").exists():
            self.new_host_key()
            self.pin()
        self.force(command)
        (self.folder / "config").write_text(one_command.CONFIG.format(port=PORT, address=address, folder=self.folder))
        self.start()

    def force(self, command: str):
        """What the key may do from now on."""
        (self.folder / "authorized_keys").write_text(
            f'restrict,command="{command}" {(self.lab.base / "id.pub").read_text()}'
        )  # fmt: skip

    def new_host_key(self):
        for path in (self.folder / "key", self.folder / "key.pub"):
            path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key")], check=True)

    def pin(self):
        """Pins the key as the role does: under the client's name."""
        line = f"{self.name} {(self.folder / 'key.pub').read_text()}"
        (self.lab.settings.known_hosts / self.name).write_text(line)

    def start(self):
        Path("/run/sshd").mkdir(exist_ok=True)
        (self.folder / "log").touch()
        self.process = subprocess.Popen(
            [SSHD, "-D", "-f", str(self.folder / "config"), "-E", str(self.folder / "log")], start_new_session=True
        )
        for _ in range(1200):
            if "Server listening" in (self.folder / "log").read_text():
                return
            time.sleep(0.05)
        said = (self.folder / "log").read_text()
        self.stop()
        raise AssertionError(said)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
            (self.folder / "log").unlink(missing_ok=True)

    def restart(self):
        self.stop()
        self.start()


def forced(client: Client) -> str:
    """The command that the role forces for the server's key, for root."""
    return f"{client.agent_python} -I {client.agent} --config {client.agent_config} serve"
