# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Between the names of clients and the hosts of the inventory: what people type, and what a playbook tells.

Here live names and the lines a playbook ends in; what a restore means is the engine's to say.
"""

from __future__ import annotations

import re
import shlex
import typing as t
from collections.abc import Mapping

from ansible.errors import AnsibleFilterError

CLIENT_AND_PATH = re.compile(r"([^/:\s]+):(/.*)\Z", re.DOTALL)


def client_hosts(hosts: t.Iterable[str], hostvars: t.Any) -> dict[str, str]:
    """Name of client -> host of the inventory."""
    found: dict[str, str] = {}
    for host in hosts:
        name = str(hostvars[host].get("backup_client_name", host))
        if name in found:
            both = f"{found[name]} and {host} are both the client {name}"
            raise AnsibleFilterError(f"{both}: give one another backup_client_name")
        found[name] = str(host)
    return found


def client_name(word: str, clients: t.Any) -> str:
    """The client that a person means: its name, or the first label of one name, such as web01 for web01.acme.lan.

    A word that fits none is given back: the engine may know a client that left the inventory.
    """
    names = sorted(clients)
    if word in names:
        return word
    near = [name for name in names if name.split(".")[0] == word]
    if len(near) > 1:
        raise AnsibleFilterError(f"{word} may be {' or '.join(near)}: write the whole name")
    return near[0] if near else word


def restore_words(what: t.Any, clients: t.Any) -> list[str]:
    """What restore_what means, as words of `stowage restore` with whole names of clients.

    A string is CLIENT:/PATH, spaces in the path included, or CLIENT SOURCE [PATH…] as in a shell; a list is words.
    """
    if isinstance(what, str):
        words = [what] if CLIENT_AND_PATH.match(what) else shlex.split(what)
    else:
        words = [str(word) for word in what or []]
    if not words:
        raise AnsibleFilterError("say what to restore: -e restore_what=CLIENT:/PATH")
    if not CLIENT_AND_PATH.match(words[0]):
        return [client_name(words[0].rstrip(":"), clients), *words[1:]]
    full = []
    for word in words:
        match = CLIENT_AND_PATH.match(word)
        full.append(f"{client_name(match.group(1), clients)}:{match.group(2)}" if match else word)
    return full


def restore_to(to: str | None, clients: t.Any) -> str:
    """restore_to with the whole name of the client; '' when it is not set."""
    match = CLIENT_AND_PATH.match(to or "")
    return f"{client_name(match.group(1), clients)}:{match.group(2)}" if match else str(to or "")


def permit_paths(paths: t.Iterable[str], words: t.Sequence[str] = ()) -> list[str]:
    """What a permit must cover for the paths of a plan: of a glob the folder above its first sign.

    A plan shows odd names escaped; CLIENT:/PATH words have them as they are.
    """
    found = []
    if words and CLIENT_AND_PATH.match(words[0]):
        typed = [CLIENT_AND_PATH.match(word) for word in words]
        paths = ["/".join(["", *_parts(match.group(2) if match else word)]) for match, word in zip(typed, words)]
    for path in paths:
        parts: list[str] = []
        for part in _parts(path):
            if re.search(r"[*?\[\\]", part):
                break
            parts.append(part)
        found.append("/" + "/".join(parts))
    return sorted(set(found))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.0f} TB" if count >= 10 else f"{count:.1f} TB"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def shown_plan(plan: Mapping, exists: t.Sequence[str]) -> str:
    """A plan of a restore in one line."""
    places = sorted({str(one.get("place", "")) for one in plan.get("dumps", [])} - {""})
    line = (
        f"{_count(plan['files'], 'file')}, {size(plan['files_bytes'])} of {plan['client']} as of {plan['moment']} "
        f"to {plan['destination']}; reads {size(plan['bytes'])} of {_count(len(plan['dumps']), 'dump')}"
    )
    if places:
        line += f" from {', '.join(places)}"
    if exists:
        line += f"; there already: {', '.join(exists)} (existing: {plan['existing']})"
    return line


def shown_run(report: Mapping) -> list[str]:
    """A report in lines: what is not good, then the headline."""
    lines = []
    for one in report.get("sources", []):
        if one["status"] != "OK":
            lines.append(_told(one, f"{one['client']}:{one['source']}"))
    lines += [_told(one, f"to {one['target']}") for one in report.get("targets", []) if one["status"] != "OK"]
    lines += [f"note {one}" for one in report.get("notes", [])]
    return [*lines, report["headline"]]


def _told(one: Mapping, name: str) -> str:
    hint = f" -> {one['hint']}" if one.get("hint") else ""
    return f"{one['status']:4s} {name}: {one['message']}{hint}"


def shown_restore(done: Mapping) -> str:
    """What a restore did, in one line."""
    line = f"{_count(done['files'], 'file')}, {size(done['bytes'])} of {done['client']} as of {done['moment']}"
    line += f" are in {done['destination']}"
    if done.get("skipped"):
        line += f"; {done['skipped']} kept as they were"
    for what, key in (("not kept", "not_kept"), ("note", "notes")):
        if done.get(key):
            line += f"; {what}: {', '.join(map(str, done[key]))}"
    return line


def finding_lines(check: Mapping, ok: bool = False) -> list[str]:
    """The findings of a check for people, the worst first."""
    lines = []
    for one in check.get("findings", []):
        if one["status"].upper() != "OK" or ok:
            hint = f" -> {one['hint']}" if one.get("hint") else ""
            lines.append(f"{one['status'].upper():4s} {one['name']}: {one['message']}{hint}")
    return lines


def short_names(names: t.Iterable[str]) -> dict[str, str]:
    """Each name -> its first label where that is no other's too and no part of an address."""
    names = list(names)
    labels = [name.split(".")[0] for name in names]
    return {
        name: label if labels.count(label) == 1 and not label.isdigit() else name for name, label in zip(names, labels)
    }


def asked_clients(check: Mapping) -> list[str]:
    """All clients that a check asked, whether they answered or not."""
    named = {one["name"] for one in check.get("findings", []) if one["area"] == "client"}
    return sorted(named | set(check["ready"]) | set(check.get("away", [])))


def site_servers(hosts: t.Iterable[str], hostvars: t.Any, servers: t.Sequence[str]) -> list[str]:
    """The backup servers of these hosts: those among them, and those that their clients are registered on."""
    usual = servers[0] if servers else ""
    found = {str(host if host in servers else hostvars[host].get("backup_client_server", usual)) for host in hosts}
    return sorted(found - {""})


def shown_check(check: Mapping) -> list[str]:
    """A check as lines: what is wrong, then one line for all."""
    asked, ready = len(asked_clients(check)), len(check["ready"])
    return [*finding_lines(check), f"{ready} of {asked} clients ready" if ready < asked else f"{ready} clients ready"]


def site_line(
    check: Mapping, start: str, timer: bool, gone: t.Sequence[str] = (), first: t.Mapping | None = None
) -> str:
    """How a roll-out ends: who is ready, when the first night is, what nobody covers, who left the inventory.

    first: the first_fulls of the plan, how many sources wait for theirs and over how many nights.
    """
    asked, ready = asked_clients(check), set(check["ready"])
    short = short_names([*asked, *gone])
    away = set(check.get("away", []))
    lost = [short[name] for name in asked if name not in ready and name not in away]
    many = "client" if len(asked if lost else ready) == 1 else "clients"
    parts = [f"{len(ready)} of {len(asked)} {many} ready" if lost else f"{len(ready)} {many} ready"]
    if lost:
        parts[0] += f" (not {_some(lost)})"
    if away:
        parts[0] += f" ({len(away)} away)"
    night = f", first fulls from {start}"
    if first and not first["sources"]:
        night = f", nights from {start}"
    elif first and first["nights"] > 1:
        night += f" over {first['nights']} nights"
    parts[0] += night if timer else ", no timer here: start 'stowage run' by other means"
    broken = [one for one in check.get("findings", []) if one["status"].upper() == "FAIL" and one["area"] != "client"]
    parts += [f"{one['name']} fails: {one['message']}" for one in broken[:3]]
    bare = check.get("not_covered", [])
    if bare:
        parts.append("not covered: " + _some([_bare(one, short) for one in bare]))
    warnings = [one for one in check.get("findings", []) if (one["status"].upper(), one["area"]) == ("WARN", "server")]
    parts += [f"warning: {one['message']}" for one in warnings[:3]]
    if gone:
        parts.append(f"no longer in the inventory: {_some([short[name] for name in gone])}")
    return "; ".join(parts)


def _bare(one: Mapping, short: Mapping) -> str:
    count = int(one.get("bytes") or 0)
    return f"{short.get(one['client'], one['client'])}:{one['path']}" + (f" ({size(count)})" if count else "")


def _some(names: t.Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "client_hosts": client_hosts,
            "client_name": client_name,
            "finding_lines": finding_lines,
            "permit_paths": permit_paths,
            "restore_to": restore_to,
            "restore_words": restore_words,
            "shown_check": shown_check,
            "shown_plan": shown_plan,
            "shown_restore": shown_restore,
            "shown_run": shown_run,
            "site_line": site_line,
            "site_servers": site_servers,
        }
