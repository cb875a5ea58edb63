#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: client
short_description: Register a client on the backup server
version_added: 0.1.0
description:
  - Writes one file in C(clients.d) with all that the backup server needs to know of a client, and one in
    C(known_hosts.d) with its pinned host keys.
  - One file for each client, so that many clients can be registered at the same time.
  - A registration that the engine refuses, such as one with an unknown policy, is taken back, so that no client can
    stop the night of all others.
  - The role P(stowage.backup.backup_client#role) calls it, delegated to the backup server.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  async:
    support: full
options:
  name:
    description: Name of the client.
    type: str
    required: true
  state:
    description:
      - A V(present) client is dumped every night.
      - A V(retired) client is not dumped any more; its images stay under its retention and can be restored.
        Without O(sources) what is registered stays as it is, so that their copies keep their rules.
      - An V(absent) client is forgotten by the configuration; its images stay, but a restore needs it registered again.
    type: str
    choices: [present, retired, absent]
    default: present
  transport:
    description: Whether the agent is reached over SSH, or runs on the backup server itself.
    type: str
    choices: [ssh, local]
    default: ssh
  address:
    description: The address that the backup server connects to. The name of the client if not set.
    type: str
  port:
    description: The port of the client's SSH server.
    type: int
    default: 22
  user:
    description: The user on the client.
    type: str
    default: stowage
  presence:
    description: The absence of a V(roaming) client is a warning until its recovery point objective is past.
    type: str
    choices: [always, roaming]
    default: always
  agent_python:
    description: The Python on the client that runs the agent.
    type: path
    default: /usr/bin/python3
  agent:
    description: The agent on the client.
    type: path
    default: /usr/local/lib/stowage/agent.pyz
  agent_config:
    description: The agent's configuration on the client.
    type: path
    default: /etc/stowage/agent.json
  sources:
    description: What is dumped of the client, by name, with the options of each source.
    type: dict
    default: {}
  timing:
    description:
      - When its sources are dumped and at which levels, where they do not say it themselves.
      - C(cycle), C(grace), C(priority), C(strategy), C(days), C(earliest), C(max_chain), C(schedule), C(split),
        C(interim).
    type: dict
    default: {}
  copies:
    description:
      - What is other than its policies say of the copies of its sources, target by target and key by key.
      - "Such as V([{target: cloud, dumps: none}]); a key with V(null) takes its word back."
    type: list
    elements: dict
    default: []
  holding:
    description: Whether its dumps land on a holding disk; as its policies say if not set.
    type: str
    choices: [auto, never, required]
  min_copies:
    description: So many verified copies before an image may leave the holding disk; as its policies say if not set.
    type: int
  network:
    description: The line it hangs on, one of C(networks) in the configuration of the backup server.
    type: str
  dumps_at_once:
    description: How many of its sources are dumped at the same time; V(2) if not set.
    type: int
  ignore:
    description: Paths on the client that no source covers on purpose, each with the reason.
    type: dict
    default: {}
  host_keys:
    description: Type and base64 of each public host key of the client. Needed for O(transport=ssh).
    type: list
    elements: str
    default: []
  clients_folder:
    description: The folder of registrations on the backup server.
    type: path
    default: /etc/stowage/clients.d
  known_hosts_folder:
    description: The folder of pinned host keys on the backup server.
    type: path
    default: /etc/stowage/known_hosts.d
  group:
    description: The group that may read the files.
    type: str
    default: stowage
"""

EXAMPLES = r"""
- name: Register a client
  stowage.backup.client:
    name: web1
    address: web1.example.org
    sources:
      etc: {path: /etc}
    host_keys:
      - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHYHzA8RiqO37xGqFDTj+J8Tz6aVJ1wTSdNYMuuNQQ0B
  delegate_to: backup1.example.org

- name: Retire a client and keep its images
  stowage.backup.client:
    name: web1
    state: retired
  delegate_to: backup1.example.org
"""

RETURN = r"""
file:
  description: The file of the registration.
  returned: success
  type: str
  sample: /etc/stowage/clients.d/web1.yml
registered:
  description: What stands in it for the client; empty when the client is absent.
  returned: success
  type: dict
"""

import grp
import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9._-]*\Z")
NOT_PLAIN = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
# what the engine takes when a registration does not say it
DEFAULTS = {
    "transport": "ssh",
    "port": 22,
    "user": "stowage",
    "presence": "always",
    "agent_python": "/usr/bin/python3",
    "agent": "/usr/local/lib/stowage/agent.pyz",
    "agent_config": "/etc/stowage/agent.json",
}
TIMING = ("cycle", "grace", "priority", "strategy", "days", "earliest", "max_chain", "schedule", "split", "interim")
SERVER_ONLY = ("holding", "min_copies", "network", "dumps_at_once")
HEAD = "# Written by Ansible (stowage.backup.client); the inventory is the place to change it.\n"


def quoted(text):
    """A YAML double-quoted string; no YAML library is needed on the target."""

    def escape(match):
        code = ord(match.group())
        return "\\x%02x" % code if code < 0x100 else "\\u%04x" % code if code < 0x10000 else "\\U%08x" % code

    return '"%s"' % re.sub(r"[^\x20-\x7e]", escape, text.replace("\\", "\\\\").replace('"', '\\"'))


def scalar(value):
    """A value on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[%s]" % ", ".join(scalar(one) for one in value)
    if isinstance(value, dict):
        return "{%s}" % ", ".join("%s: %s" % (key_of(key), scalar(one)) for key, one in sorted(value.items()))
    return quoted(str(value))


def key_of(key):
    """A mapping's key."""
    return key if PLAIN_KEY.match(key) and key.lower() not in NOT_PLAIN else quoted(key)


def block(value, indent):
    """Lines of a mapping."""
    lines = []
    for key, one in value.items():
        if isinstance(one, dict) and one:
            lines.append("%s%s:\n" % (indent, key_of(key)))
            lines.extend(block(one, indent + "  "))
        else:
            lines.append("%s%s: %s\n" % (indent, key_of(key), scalar(one)))
    return lines


def registration(params):
    """What stands in the file for the client."""
    content = {"address": params["address"] or params["name"]}
    content.update((key, params[key]) for key, usual in DEFAULTS.items() if params[key] != usual)
    if params["state"] == "retired":
        content["state"] = "retired"
    content.update((key, one) for key, one in sorted(params["timing"].items()) if one is not None)
    if params["copies"]:
        content["copies"] = params["copies"]
    content.update((key, params[key]) for key in SERVER_ONLY if params[key] is not None)
    if params["ignore"]:
        content["ignore"] = {key: str(why) for key, why in sorted(params["ignore"].items())}
    content["sources"] = {}
    for name, source in sorted(params["sources"].items()):
        if not isinstance(source, dict):
            source = {"path": source}
        content["sources"][name] = {key: one for key, one in source.items() if one is not None}
    return content


def retired(before):
    """A registration that this module wrote, with the word that it is retired; None when it wrote none."""
    word = '    state: "retired"\n'
    lines = (before or "").splitlines(True)
    sources = [number for number, line in enumerate(lines) if line.startswith("    sources:")]
    if not (before or "").startswith(HEAD) or len(sources) != 1:
        return None
    return before if word in lines else "".join(lines[: sources[0]] + [word] + lines[sources[0] :])


def known_hosts(name, keys):
    """The lines of known_hosts.d: the server looks the client up by its name, whatever its address."""
    return "".join("%s %s\n" % (name, key) for key in sorted(keys))


def read(path):
    """The text of a file, None when there is none."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return None


def refused(module, file):
    """Why the engine refuses the file just written, '' when it does not or cannot be asked."""
    try:
        # the cheapest command that reads all of the configuration: each client of a fleet asks for it once
        _engine.call(module, ["list", "runs", "--limit", "1"])
    except _engine.EngineError as error:
        if error.code == "config" and file in error.text:
            return error.line
        if error.code == "config":
            module.warn("the configuration of the backup server is wrong: %s" % error.line)
    return ""


def put(module, path, text, mode, group):
    """Makes the file hold text (None: be gone); returns (changed, before)."""
    before = read(path)
    changed = before != text
    if text is None:
        if changed and not module.check_mode:
            os.unlink(path)
        return changed, before
    if changed and not module.check_mode:
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        try:
            os.chown(temporary, -1, grp.getgrnam(group).gr_gid)
        except KeyError:
            os.unlink(temporary)
            module.fail_json(msg="there is no group %s here: apply the role stowage.backup.backup_server first" % group)
        os.rename(temporary, path)
    elif before is not None:
        changed = module.set_group_if_different(path, group, changed)
        changed = module.set_mode_if_different(path, mode, changed)
    return changed, before


def main():
    spec = _engine.argument_spec()
    spec.update(
        {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "retired", "absent"], "default": "present"},
            "transport": {"type": "str", "choices": ["ssh", "local"], "default": "ssh"},
            "address": {"type": "str"},
            "port": {"type": "int", "default": 22},
            "user": {"type": "str", "default": "stowage"},
            "presence": {"type": "str", "choices": ["always", "roaming"], "default": "always"},
            "agent_python": {"type": "path", "default": "/usr/bin/python3"},
            "agent": {"type": "path", "default": "/usr/local/lib/stowage/agent.pyz"},
            "agent_config": {"type": "path", "default": "/etc/stowage/agent.json"},
            "sources": {"type": "dict", "default": {}},
            "timing": {"type": "dict", "default": {}},
            "copies": {"type": "list", "elements": "dict", "default": []},
            "holding": {"type": "str", "choices": ["auto", "never", "required"]},
            "min_copies": {"type": "int"},
            "network": {"type": "str"},
            "dumps_at_once": {"type": "int"},
            "ignore": {"type": "dict", "default": {}},
            "host_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "clients_folder": {"type": "path", "default": "/etc/stowage/clients.d"},
            "known_hosts_folder": {"type": "path", "default": "/etc/stowage/known_hosts.d"},
            "group": {"type": "str", "default": "stowage"},
        }
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    params = module.params
    name, state = params["name"], params["state"]
    if not NAME.match(name) or ".." in name:
        module.fail_json(msg="%r cannot name a client: letters, digits, '.', '_' and '-' make a name" % name)
    if state == "present" and params["transport"] == "ssh" and not params["host_keys"]:
        module.fail_json(msg="client %s: no host key; the server would not know whom it talks to" % name)
    unknown = sorted(set(params["timing"]) - set(TIMING))
    if unknown:
        module.fail_json(msg="timing: unknown key %r; there are %s" % (unknown[0], ", ".join(TIMING)))
    for folder in (params["clients_folder"], params["known_hosts_folder"]):
        if not os.path.isdir(folder) and not module.check_mode:
            module.fail_json(msg="%s does not exist: apply the role stowage.backup.backup_server first" % folder)
    file = os.path.join(params["clients_folder"], name + ".yml")
    pinned = os.path.join(params["known_hosts_folder"], name)
    content = {} if state == "absent" else registration(params)
    text = HEAD + "".join(block({"clients": {name: content}}, "")) if content else None
    if state == "retired" and not params["sources"]:
        text = retired(read(file)) or text
    wanted = [(file, text, 0o640)]
    if state == "absent":
        wanted.insert(0, (pinned, None, 0o640))
    elif params["host_keys"]:
        # first the keys, so that a registered client is always a pinned one
        wanted.insert(0, (pinned, known_hosts(name, params["host_keys"]), 0o640))
    changed, diff, undo = False, [], []
    for path, text, mode in wanted:
        one, before = put(module, path, text, mode, params["group"])
        changed = changed or one
        if one:
            undo.append((path, before, mode))
            diff.append({"before_header": path, "after_header": path, "before": before or "", "after": text or ""})
    why = refused(module, file) if changed and content and not module.check_mode else ""
    if why:
        for path, before, mode in undo:
            put(module, path, before, mode, params["group"])
        module.fail_json(msg="client %s is not registered: %s" % (name, why))
    result = {"changed": changed, "file": file, "registered": content}
    if module._diff:
        result["diff"] = diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
