"""The test bed of the benchmarks: one sshd on a loopback address, one client, the real command line.

Here lives the set-up; what is measured lives in run.py, what is dumped in trees.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ADDRESS, PORT = "127.77.90.1", 2290
CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
MEASURE = """\
import os, sys
out = sys.argv[1]
pid = os.fork()
if not pid:
    os.execv(sys.argv[2], sys.argv[2:])
_pid, status, usage = os.wait4(pid, 0)
with open(out, "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Bed:
    """Everything below one scratch folder; close() ends the sshd."""

    client = "bench"

    def __init__(self, scratch: Path):
        self.scratch = scratch.resolve()
        self.command = Path(sys.executable).parent / "stowage"
        self.lab = self.scratch / "bed"
        shutil.rmtree(self.lab, ignore_errors=True)
        self.lab.mkdir(parents=True)
        self.scratch.chmod(0o755)
        for name in ("host", "server", "yardstick"):
            self._keygen(name)
        from backupcore.app import agent_build

        agent_build.build_agent(str(self.lab / "agent.pyz"))
        (self.lab / "agent.pyz").chmod(0o644)
        (self.lab / "measure.py").write_text(MEASURE)
        self.peak = self.lab / "agent.peak"
        self.sshd = self._start_sshd()
        self.ssh_line = (
            f"ssh -F none -T -o BatchMode=yes -o Ciphers={CIPHERS} -o UserKnownHostsFile={self.lab}/known_hosts "
            f"-i {self.lab}/yardstick -p {PORT} root@{ADDRESS}"
        )
        subprocess.run([*self.ssh_line.split(), "true"], check=True)

    def _keygen(self, name: str) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.lab / name)], check=True)

    def _start_sshd(self) -> subprocess.Popen:
        serve = f"/usr/bin/python3 -I {self.lab}/agent.pyz --config {self.lab}/agent.json serve"
        self._authorize(serve)
        (self.lab / "sshd_config").write_text(
            f"Port {PORT}\nListenAddress {ADDRESS}\nHostKey {self.lab}/host\nPidFile {self.lab}/sshd.pid\n"
            f"AuthorizedKeysFile {self.lab}/authorized_keys\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n"
            "PermitRootLogin prohibit-password\nUseDNS no\n"
        )
        host = (self.lab / "host.pub").read_text().split()
        (self.lab / "known_hosts").write_text(f"[{ADDRESS}]:{PORT} {host[0]} {host[1]}\n")
        (self.lab / "known_hosts.d").mkdir()
        for alias in (self.client, f"[{self.client}]:{PORT}"):
            with open(self.lab / "known_hosts.d" / self.client, "a") as file:
                file.write(f"{alias} {host[0]} {host[1]}\n")
        os.makedirs("/run/sshd", exist_ok=True)
        process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-f", str(self.lab / "sshd_config"), "-E", str(self.lab / "sshd.log")]
        )
        deadline = time.monotonic() + 10
        while not (self.lab / "sshd.pid").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the bench's sshd does not start: " + (self.lab / "sshd.log").read_text())
            time.sleep(0.05)
        return process

    def _authorize(self, serve: str) -> None:
        server, yardstick = ((self.lab / f"{name}.pub").read_text() for name in ("server", "yardstick"))
        (self.lab / "authorized_keys").write_text(f'restrict,command="{serve}" {server}{yardstick}')

    def configure(self, sources: dict) -> None:
        """Declares the client's sources (name: options) on both sides; policy `server` or `client`: sealed there."""
        options = {"include": [], "exclude": [], "one_file_system": True, "before": None, "after": None}
        sealed = any("policy" in given for given in sources.values())
        named = self._recipients() if sealed else []
        agent = {
            "schema": 1, "client": self.client,
            "scratch": str(self.lab / "scratch"), "permits": str(self.lab / "permit"),
            "sources": {
                name: {
                    "type": "tree",
                    "options": {**options, **{key: value for key, value in given.items() if key != "policy"}},
                    "encrypt": "client" if given.get("policy") == "client" else "none",
                    "recipients": named if given.get("policy") == "client" else [],
                }
                for name, given in sources.items()
            },
        }  # fmt: skip
        (self.lab / "agent.json").write_text(json.dumps(agent))
        (self.lab / "agent.json").chmod(0o644)
        config = {
            "state": str(self.lab / "state"),
            "holding": [{"path": str(self.lab / "holding"), "use": "40 GiB"}],
            "ssh": {"key": str(self.lab / "server"), "known_hosts": str(self.lab / "known_hosts.d")},
            "policies": {
                "standard": {"compress": "zstd:1", "copies": []},
                "server": {"compress": "zstd:1", "copies": [], "encrypt": "server"},
                "client": {"compress": "zstd:1", "copies": [], "encrypt": "client"},
            },
            "clients": {
                self.client: {
                    "address": ADDRESS, "port": PORT, "user": "root", "agent": str(self.lab / "agent.pyz"),
                    "agent_config": str(self.lab / "agent.json"),
                    "sources": {name: {"type": "tree", **given} for name, given in sources.items()},
                }
            },
        }  # fmt: skip
        (self.lab / "stowage.yml").write_text(json.dumps(config))  # JSON is YAML
        (self.lab / "stowage.yml").chmod(0o600)
        (self.lab / "holding").mkdir(exist_ok=True)

    def _recipients(self) -> list[str]:
        """The public keys of operations and escrow, made when they are not there."""
        (self.lab / "stowage.yml").write_text(json.dumps({
            "state": str(self.lab / "state"), "holding": [{"path": str(self.lab / "holding"), "use": "40 GiB"}],
        }))  # fmt: skip
        self.stowage("key", "generate", "--no-passphrase")
        return [one["public"] for one in self.stowage("key", "list")["keys"]]

    def stowage(self, *words: str) -> dict:
        """Runs the command; its JSON. Exits when it fails: a benchmark of failures measures nothing."""
        done = subprocess.run(
            [self.command, "--config", str(self.lab / "stowage.yml"), "--json", *words], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"stowage {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def stowage_measured(self, peak: Path, *words: str) -> dict:
        """The same, with the peak of its memory in KiB at peak."""
        command = [str(self.command), "--config", str(self.lab / "stowage.yml"), "--json", *words]
        done = subprocess.run(
            [sys.executable, str(self.lab / "measure.py"), str(peak), *command], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"stowage {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def run(self, source: str, level: int) -> dict:
        """One dump of one source by a whole `stowage run`; older images of it are removed to keep the disk small."""
        return self.stowage("run", "--client", self.client, "--source", source, "--level", str(level))

    def dumps(self, source: str) -> list[dict]:
        """The dumps of a source, oldest first."""
        return [d for d in self.stowage("list", "dumps")["dumps"] if d["source"] == source]

    def last_dump(self, source: str) -> dict:
        """The newest dump of a source."""
        return self.dumps(source)[-1]

    def has_full(self, source: str) -> bool:
        """Whether a full of the source is in the catalog."""
        return any(d["level"] == 0 for d in self.dumps(source))

    def check_image(self, dump: dict) -> None:
        """The image's own checksums hold."""
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=dump["holding"], check=True)

    def run_measured(self, source: str, level: int) -> tuple[int, int]:
        """(peak of the whole `stowage run`, peak of the agent) in KiB."""
        plain = f"/usr/bin/python3 -I {self.lab}/agent.pyz --config {self.lab}/agent.json serve"
        self._authorize(f"/usr/bin/python3 -I {self.lab}/measure.py {self.peak} {plain}")
        try:
            out = self.lab / "server.peak"
            words = [str(self.command), "--config", str(self.lab / "stowage.yml"), "--json", "run",
                     "--client", self.client, "--source", source, "--level", str(level)]  # fmt: skip
            subprocess.run(
                [sys.executable, str(self.lab / "measure.py"), str(out), *words], check=True, stdout=subprocess.DEVNULL
            )
            return int(out.read_text()), int(self.peak.read_text())
        finally:
            self._authorize(plain)

    def close(self) -> None:
        """Ends the sshd and removes what the bed wrote, not the trees."""
        self.sshd.send_signal(signal.SIGTERM)
        self.sshd.wait()
        shutil.rmtree(self.lab, ignore_errors=True)
