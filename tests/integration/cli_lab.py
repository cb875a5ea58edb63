"""A server as the role makes it, run by the real command; clients behind real sshd's. For tests only."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import agent_file
import yaml
from dump_lab import PORT, Sshd

from backupcore import cli


class Server:
    """Files below base; stowage() runs the command and checks what must hold for every answer."""

    def __init__(self, base: Path):
        self.base = base
        agent_file.put(base / "agent.pyz")
        (base / "holding").mkdir(mode=0o700)
        for name in ("clients.d", "known_hosts.d"):
            (base / name).mkdir()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / "id")], check=True)
        self.config = {
            "state": str(base / "state"), "holding": [{"path": str(base / "holding"), "use": "1 GB"}], "targets": {},
            "policies": {}, "ssh": {"key": str(base / "id"), "known_hosts": str(base / "known_hosts.d")},
            "timeouts": {"connect": 20, "silence": 60},
        }  # fmt: skip
        self.settings = SimpleNamespace(known_hosts=base / "known_hosts.d")  # what Sshd asks of its lab
        self.sshds = {}
        self.write()

    def write(self, **more):
        """Writes stowage.yml with some keys changed."""
        self.config.update(more)
        (self.base / "stowage.yml").write_text(yaml.safe_dump(self.config))

    def client(self, name, trees, address=None, agent_sources=None, **values):
        """Registers a client: local, or at an address behind its own sshd."""
        config = self.base / f"{name}.agent.json"
        known = {"include": [], "exclude": [], "one_file_system": True, "before": None, "after": None}
        sources = {one: value if isinstance(value, dict) else {"path": str(value)} for one, value in trees.items()}
        given = {
            one: {"type": "tree", "options": {**known, **{k: v for k, v in value.items() if k != "policy"}},
                  "encrypt": "none", "recipients": []}
            for one, value in (sources if agent_sources is None else agent_sources).items()
        }  # fmt: skip
        agent = {"schema": 1, "client": name, "sources": given, "scratch": str(self.base / f"{name}.scratch"),
                 "permits": str(self.base / f"{name}.permits")}  # fmt: skip
        config.write_text(json.dumps(agent))
        config.chmod(0o600)
        client = {"agent_python": sys.executable, "agent": str(self.base / "agent.pyz"), "agent_config": str(config),
                  "sources": sources, "transport": "local", **values}  # fmt: skip
        if address:
            client.update(transport="ssh", address=address, port=PORT, user="root")
            command = f"{sys.executable} -I {self.base}/agent.pyz --config {config} serve"
            self.sshds[name] = Sshd(self, name, address, command)
        (self.base / "clients.d" / f"{name}.yml").write_text(yaml.safe_dump({"clients": {name: client}}))

    def close(self):
        for sshd in self.sshds.values():
            sshd.stop()

    def start(self, *words, **more):
        """Starts the command."""
        command = [sys.executable, "-m", "backupcore", "--config", str(self.base / "stowage.yml"), *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)

    def stowage(self, *words, status=0):
        """Runs the command in this process, which is quicker; (standard output, standard error)."""
        found, out, err = self.told(*words)
        assert found == status, (found, out, err)
        return out, err

    def told(self, *words):
        """The same whatever becomes of it: (exit status, standard output, standard error)."""
        out, err = io.StringIO(), io.StringIO()
        kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                found = cli.main(["--config", str(self.base / "stowage.yml"), *map(str, words)])
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
        out, err = out.getvalue(), err.getvalue()
        assert "Traceback" not in out + err
        assert "this is a bug" not in out + err, err
        return found, out, err

    def json(self, *words, status=0):
        """The same with --json, decoded."""
        return json.loads(self.stowage("--json", *words, status=status)[0])

    def dumps(self):
        """`client:source` of every dump in the catalog, in order."""
        return [f"{one['client']}:{one['source']}" for one in self.json("list", "dumps")["dumps"]]
