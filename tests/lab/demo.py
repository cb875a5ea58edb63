"""make demo: the main job, from an inventory to the holding disk, to a bucket, and back through a playbook.

Three real clients and a backup server (lab hosts: own root, own sshd on a loopback address), a real S3 server,
the collection as it ships, and nothing but playbooks: roll out, full run, changes, incremental run, then the
holding disk and one client's tree are lost and restored from the bucket, and compared.

    python tests/lab/demo.py [--keep] [--lab DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hosts
import tree
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PORT = 2222
S3_PORT = 28080
ADDRESSES = {"backup1": "127.77.1.1", "web1": "127.77.1.2", "db1": "127.77.1.3", "nb1": "127.77.1.4"}

# Real files that every Debian has: thousands of small ones, some large ones, an /etc.
FILL = {
    "web1": "mkdir -p /var/www/html /var/www/cache && cp -a /usr/lib/python3* /usr/share/doc /var/www/html/"
    " && cp -a /usr/share/zoneinfo /var/www/cache/ && cd /var/www"
    " && ln html/doc/tar/copyright html/hardlink && ln -s html/doc doc"
    " && setfacl -m u:1234:rx html && setfattr -n user.owner -v web html"
    " && mkfifo html/queue && printf 'x' > \"$(printf 'html/odd\\nname\\377')\" && chown -R 2500000:2500001 html/doc",
    "db1": "mkdir -p /var/backups/dumps && tar -cf /var/backups/dumps/monday.sql -C /usr/lib python3"
    " && truncate -s 3G /var/backups/dumps/sparse.img && cp -a /usr/share/perl* /var/backups/dumps/",
    "nb1": "mkdir -p /home/ada && cp -a /usr/share/zoneinfo /usr/lib/python3/dist-packages /home/ada/",
}
CHANGE = {
    "web1": "cd /var/www/html && echo changed >> doc/tar/copyright && rm -rf doc/zstd && mv doc/sed doc/sed-renamed"
    " && mkdir new && echo new > new/file && rm queue && mkdir queue && echo inside > queue/file",
    "db1": "cd /var/backups/dumps && tar -cf tuesday.sql -C /usr/share perl && rm monday.sql",
    "nb1": "echo more > /home/ada/note",
}


class Demo:
    """One demonstration in one scratch folder."""

    def __init__(self, lab: Path):
        self.lab = lab
        self.rows: list[list[str]] = []
        self.started = time.monotonic()

    def step(self, text: str) -> None:
        """Announces a step."""
        print(f"\n\033[1m== {time.monotonic() - self.started:5.0f} s  {text}\033[0m", flush=True)

    def note(self, what: str, seen: str) -> None:
        """A row of the closing table."""
        self.rows.append([what, seen])

    def on(self, host: str, script: str) -> str:
        """Runs a shell script on a host as root; what it printed."""
        done = subprocess.run(
            [*hosts.enter(self.lab, host), "bash", "-c", script], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"on {host}: {script}\n{done.stdout}{done.stderr}")
        return done.stdout

    def root_of(self, host: str) -> Path:
        """A host's root folder as seen from outside."""
        return Path(f"/proc/{hosts.inner_pid(self.lab, host)}/root")

    def play(self, name: str, *extra: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs a playbook of the collection, its output shown as it comes."""
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.lab / "collections"),
            "ANSIBLE_CONFIG": str(self.lab / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(self.lab / "ansible-tmp"),
        }
        command = [
            str(BIN / "ansible-playbook"),
            "-i",
            str(self.lab / "inventory.yml"),
            f"stowage.backup.{name}",
            *extra,
        ]
        print("$", " ".join(["ansible-playbook -i inventory.yml", f"stowage.backup.{name}", *extra]), flush=True)
        return subprocess.run(command, env=environment, check=check, cwd=self.lab)

    def stowage(self, *words: str, check: bool = True) -> dict:
        """Runs the command on the backup server; its JSON."""
        command = [
            *hosts.enter(self.lab, "backup1"),
            "runuser",
            "-u",
            "stowage",
            "--",
            "/usr/local/bin/stowage",
            "--json",
        ]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            sys.exit(f"stowage {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        if check and done.returncode:
            sys.exit(f"stowage {' '.join(words)}: status {done.returncode}\n{json.dumps(answer, indent=1)}")
        return answer

    def stowage_text(self, *words: str) -> None:
        """Runs the command on the backup server as a person would, output shown."""
        print("$ stowage", " ".join(words), flush=True)
        subprocess.run(
            [*hosts.enter(self.lab, "backup1"), "runuser", "-u", "stowage", "--", "/usr/local/bin/stowage", *words],
            check=False,
        )


def prepare(demo: Demo) -> dict:
    """Hosts, S3 server with a bucket, the collection installed as it ships, the inventory."""
    demo.step("a bucket, a backup server and three clients come up")
    s3 = json.loads(
        subprocess.run(
            [sys.executable, str(ROOT / "tests/lab/s3server.py"), "up", str(demo.lab / "s3"), str(S3_PORT), "--memory"],
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout
    )  # fmt: skip
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=s3["endpoint"], aws_access_key_id=s3["access_key"], region_name="us-east-1",
        aws_secret_access_key=s3["secret_key"], config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket="acme-backup")
    for name, address in ADDRESSES.items():
        hosts.up(demo.lab, name, address, PORT)
    for name, script in FILL.items():
        demo.on(name, script)
    demo.step("the collection is built and installed as it ships")
    subprocess.run([sys.executable, str(ROOT / "tests/build.py"), str(demo.lab / "dist")], check=True, cwd=ROOT)
    tarball = next((demo.lab / "dist").glob("stowage-backup-*.tar.gz"))
    subprocess.run(
        [str(BIN / "ansible-galaxy"), "collection", "install", "--force", "--offline", str(tarball), "-p",
         str(demo.lab / "collections")],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    connect = hosts.inventory(demo.lab)
    (demo.lab / "ansible.cfg").write_text(
        "[defaults]\nhost_key_checking = true\nforks = 4\ninterpreter_python = /usr/bin/python3\n"
        "deprecation_warnings = false\n[ssh_connection]\npipelining = true\n"
    )
    inventory = {
        "all": {
            "children": {
                "backup_server": {
                    "hosts": {"backup1": connect["backup1"]},
                    "vars": {
                        "backup_server_holding": [{"path": "/srv/holding", "use": "20 GiB"}],
                        "backup_server_targets": {
                            "cloud": {
                                "type": "s3", "bucket": "acme-backup", "prefix": "demo", "region": "us-east-1",
                                "endpoint": s3["endpoint"], "access_key": s3["access_key"],
                                "secret_key": s3["secret_key"],
                            }
                        },
                        "backup_server_policies": {"standard": {"encrypt": "server"}},
                        "backup_server_start": "21:30",
                    },
                },
                "backup_clients": {
                    "children": {"web": {}, "db": {}, "laptops": {}},
                    "vars": {"backup_client_sources": {"etc": "/etc"}},
                },
                "web": {
                    "hosts": {"web1": connect["web1"]},
                    "vars": {"backup_client_sources_web": {"www": {"path": "/var/www", "exclude": ["cache/**"]}}},
                },
                "db": {
                    "hosts": {"db1": connect["db1"]},
                    "vars": {"backup_client_sources_db": {"dumps": "/var/backups/dumps"}},
                },
                "laptops": {
                    "hosts": {"nb1": {**connect["nb1"], "backup_client_python": "/usr/local/bin/python3-nozstd"}},
                    "vars": {"backup_client_presence": "roaming", "backup_client_sources_home": {"home": "/home"}},
                },
            }
        }
    }  # fmt: skip
    path = demo.lab / "inventory.yml"
    path.write_text(yaml.safe_dump(inventory, sort_keys=False))
    path.chmod(0o600)
    return {"s3": s3, "client": client}


def bucket_objects(client) -> list[dict]:
    """All objects in the bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="acme-backup")
    return [item for page in pages for item in page.get("Contents", [])]


def bucket_names(client) -> list[str]:
    """Their names."""
    return [item["Key"] for item in bucket_objects(client)]


def bucket_table(client) -> tuple[int, int, int]:
    """(dumps, objects, bytes) in the bucket."""
    objects = bucket_objects(client)
    dumps = sum(item["Key"].endswith("/manifest.json") for item in objects)
    return dumps, len(objects), sum(item["Size"] for item in objects)


def show(demo: Demo, lab: dict) -> int:
    """The demonstration itself; the exit status."""
    demo.step("roll out: one playbook installs server and clients")
    demo.play("site")
    demo.step("tonight, now: a full dump of everything, staged to the bucket")
    began = time.monotonic()
    demo.play("run")
    full = demo.stowage("list", "dumps")["dumps"]
    demo.note(
        "first run", f"{len(full)} fulls, {sum(d['files'] for d in full)} files, {time.monotonic() - began:.0f} s"
    )
    demo.step("a day passes: files change, vanish, are renamed")
    for name, script in CHANGE.items():
        demo.on(name, script)
    wanted = {"/var/www/html": tree.snapshot(str(demo.root_of("web1") / "var/www/html"))}
    time.sleep(2.1)  # what changed within two seconds of being read is read again, by design
    demo.step("the next night: incrementals")
    began = time.monotonic()
    demo.play("run")
    both = demo.stowage("list", "dumps")["dumps"]
    later = [d for d in both if d["level"] > 0]
    demo.note("second run", f"{len(later)} incrementals, {sum(d['stored_size'] for d in later)} bytes, "
              f"{time.monotonic() - began:.0f} s")  # fmt: skip
    dumps, objects, size = bucket_table(lab["client"])
    demo.note("in the bucket", f"{dumps} dumps, {objects} objects, {size / 1e6:.0f} MB")
    plain = [name for name in bucket_names(lab["client"]) if re.search(r"[.](tar|tsv)[^/]*$", name)
             and name.rpartition("/")[2] != "keys.tsv" and not name.endswith(".enc")]  # fmt: skip
    demo.note("sealed", "every image, index and table" if not plain else f"not {plain[:3]}")
    codecs = sorted({f"{d['client']}: {d['codec']}" for d in both})
    demo.note("compressed by", ", ".join(codecs))

    demo.step("disaster: the holding disk is wiped, and so is web1's tree")
    demo.on("backup1", "rm -rf /srv/holding/* /srv/holding/.??*")
    demo.on("web1", "rm -rf /var/www/html /var/www/doc")
    began = time.monotonic()
    demo.step("one playbook brings it back, from the bucket")
    demo.play("restore", "-e", "restore_what=web1:/var/www", "-e", "restore_in_place=true")
    demo.note("restored in place", f"{time.monotonic() - began:.0f} s, playbook included")
    found = tree.differences(wanted["/var/www/html"], tree.snapshot(str(demo.root_of("web1") / "var/www/html")))
    demo.note("compared with the lost tree", f"{len(wanted['/var/www/html'])} entries, {len(found)} differences")
    for line in found[:10]:
        print("   ", line)
    demo.step("are the copies in the bucket what was sealed? every byte is read and opened")
    demo.stowage_text("verify", "--target", "cloud", "--full")
    demo.step("what the operator sees at 8 a.m.")
    demo.stowage_text("report")
    demo.stowage_text("list", "dumps")
    demo.stowage_text("find", "hardlink")

    demo.step("what happened")
    for what, seen in demo.rows:
        print(f"  {what:28} {seen}")
    took = time.monotonic() - demo.started
    print(f"\n{'every entry came back' if not found else 'DIFFERENCES'}; {took:.0f} s in all")
    return 1 if found or plain or dumps != len(both) or not later else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave hosts and S3 server running")
    parser.add_argument("--lab", type=Path, help="scratch folder (default: a new one below /var/tmp)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("without root the demo cannot show anything: the lab hosts need namespaces and overlay mounts,")
        print("and the agent reads every file of a client as root. Run: sudo make demo")
        return 1
    lab = options.lab or Path(tempfile.mkdtemp(prefix="stowage-demo-", dir="/var/tmp"))
    lab.mkdir(parents=True, exist_ok=True)
    lab.chmod(0o755)
    demo = Demo(lab.resolve())
    try:
        return show(demo, prepare(demo))
    except subprocess.CalledProcessError as error:
        print(f"\nfailed: {' '.join(map(str, error.cmd))} (status {error.returncode})", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"kept: {lab}; end it with: python tests/lab/hosts.py {lab} down;"
                  f" python tests/lab/s3server.py down {lab / 's3'}")  # fmt: skip
        else:
            hosts.down(demo.lab, [])
            subprocess.run(
                [sys.executable, str(ROOT / "tests/lab/s3server.py"), "down", str(demo.lab / "s3")], check=False
            )
            shutil.rmtree(lab, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
