"""Does what a page of docs/ tells a person to type: the very commands of a section, so that page and program stay one.

    python tests/lab/by_the_page.py PAGE SECTION --lab LAB --on HOST [--item N …] [--as USER] [--cwd DIR] [--here DIR]
                                    [--answer TEXT] [--replace OLD=NEW …] [--named NAME=HOST …]

A block of a page is what is indented by four columns more than its text; where lines of it begin with `$ `, these (and
those with `> ` after them) are the commands and the rest is what they say. --item: only blocks of these numbers of the
section's list, 0 is what stands in no item. ansible-playbook and ssh-keygen are typed here, in --here; all else on the
lab host HOST, or on the one that a comment (`# on web1`) names, --named where its host has another name. Every command
must succeed (diff may find something), and every OLD must be on the page. --answer is typed where somebody asks for a
passphrase. Knows nothing of Stowage.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pty
import re
import select
import shlex
import signal
import sys
import time
from pathlib import Path

import hosts

HERE = ("ansible-playbook", "ssh-keygen")
LIMIT = 1200  # seconds for the commands between two changes of machine


def section(page: str, heading: str) -> list[str]:
    """The lines below a heading, up to the next one."""
    lines = page.splitlines()
    at = next((number for number, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(heading)}", line)), None)
    if at is None:
        sys.exit(f"the page has no section {heading!r}")
    return list(itertools.takewhile(lambda line: not re.match(r"#+ ", line), lines[at + 1 :]))


def commands(lines: list[str]) -> list[tuple[int, str]]:
    """(item, command) in their order."""
    found: list[tuple[int, str]] = []
    block: list[str] = []
    item = inside = 0
    for line in [*lines, "end"]:
        bare = line.strip()
        if bare and len(line) - len(line.lstrip()) >= inside + 4:
            block.append(bare)
        elif bare:
            found += [(item, one) for one in _of(block)]
            block = []
            new = re.match(r"(\d+)\. ", line)
            if new:
                item, inside = int(new[1]), len(new[0])
            elif not line.startswith(" "):
                item = inside = 0
    return found


def _of(block: list[str]) -> list[str]:
    if not any(line.startswith("$ ") for line in block):
        return block
    told: list[str] = []
    going = False
    for line in block:
        if line.startswith("$ "):
            told.append(line[2:])
            going = True
        elif line.startswith("> ") and going:
            told[-1] += "\n" + line[2:]
        else:
            going = False
    return told


def place(command: str, usual: str) -> tuple[str, str]:
    """(machine, command without its comment); the machine '' is here."""
    named = re.search(r"\s+# on (\S+?)(,.*)?$", command)
    if named:
        return named[1], command[: named.start()]
    return ("" if command.split()[0] in HERE else usual), command


def script(told: list[str]) -> str:
    """Commands of one machine, each shown before it is run."""
    lines = ["set -eo pipefail"]
    for one in told:
        lines.append(f"printf '%s\\n' {shlex.quote('$ ' + one)}")
        lines.append(f"{one} || [ $? = 1 ]" if one.startswith("diff ") else one)
    return "\n".join(lines)


def typed(argv: list[str], cwd: str | None, answer: str) -> int:
    """Runs argv on a terminal of its own, what it says is shown; its exit status."""
    pid, terminal = pty.fork()
    if not pid:
        if cwd:
            os.chdir(cwd)
        os.execvp(argv[0], argv)
    deadline, tail = time.monotonic() + LIMIT, b""
    while time.monotonic() < deadline:
        ready, _, _ = select.select([terminal], [], [], 5)
        if not ready:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other side has closed it
            break
        if not piece:
            break
        os.write(1, piece)
        tail = (tail + piece)[-200:]
        if answer and re.search(rb"(?i)passphrase[^\r\n]*: *$", tail):
            os.write(terminal, answer.encode() + b"\n")
            tail = b""
    else:
        os.kill(pid, signal.SIGKILL)
        print(f"not at its end after {LIMIT} s", file=sys.stderr)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="does what a page tells a person to type")
    parser.add_argument("page", type=Path)
    parser.add_argument("section")
    parser.add_argument("--lab", type=Path, required=True)
    parser.add_argument("--on", required=True)
    parser.add_argument("--item", type=int, action="append")
    parser.add_argument("--as", dest="user", default="root")
    parser.add_argument("--cwd", default="/root")
    parser.add_argument("--here", default=".")
    parser.add_argument("--answer", default="")
    parser.add_argument("--replace", action="append", default=[])
    parser.add_argument("--named", action="append", default=[])
    options = parser.parse_args()
    told = [(item, one) for item, one in commands(section(options.page.read_text("utf-8"), options.section))
            if options.item is None or item in options.item]  # fmt: skip
    for item in options.item or ():
        if item not in {number for number, _one in told}:
            sys.exit(f"item {item} of {options.section!r} has no commands")
    for pair in options.replace:
        old, _, new = pair.partition("=")
        if not any(old in one for _item, one in told):
            sys.exit(f"{options.section!r} does not say {old!r} any more")
        told = [(item, one.replace(old, new)) for item, one in told]
    placed = [place(one, options.on) for _item, one in told]
    if not placed:
        sys.exit(f"{options.section!r} has no commands")
    named = dict(pair.split("=", 1) for pair in options.named)
    for machine, group in itertools.groupby(placed, key=lambda one: one[0]):
        text = script([one for _machine, one in group])
        if machine:
            inner = f"cd {shlex.quote(options.cwd)}\n{text}"
            who = [] if options.user == "root" else ["runuser", "-u", options.user, "--"]
            environment = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                           "HOME=/root", "TERM=dumb", "LC_ALL=C.UTF-8"]  # fmt: skip
            environment += [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
            argv = [*hosts.enter(options.lab, named.get(machine, machine)), *environment, *who, "bash", "-c", inner]
        else:
            argv = ["bash", "-c", text]
        status = typed(argv, None if machine else options.here, options.answer)
        if status:
            print(f"{options.section}: exit status {status} on {machine or 'the controller'}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
