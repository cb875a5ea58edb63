# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From role variables to the files of server and agent: stowage.yml, credentials, sources, agent.json.

Here lives the merging and splitting that would be unreadable as Jinja; writing files is the roles' work, and
whether a driver knows an option is the engine's to say.
"""

from __future__ import annotations

import copy
import json
import re
import typing as t
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError

# what never stands in stowage.yml: it goes to a 0600 file that `credentials` or `password_file` names
SECRET = ("access_key", "secret_key", "session_token", "proxy_user", "proxy_password")
SECRET_OF_TYPE = {"sftp": ("password", "passphrase")}  # what else is, for a target of that type
# of a key that may delete, which pruning alone uses: in a file of its own
SECRET_OF_PRUNING = ("delete_access_key", "delete_secret_key", "delete_session_token")
# of who is told what happened: option -> the one that names its file. The address of a webhook or ping is a secret, too
SECRET_OF_EVENT = {
    "mail": {"password": "password_file"},
    "ping": {"url": "url_file"},
    "webhook": {"url": "url_file", "secret": "secret_file"},
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
# options of a source that only the server reads; the rest is the agent's
TIMING = ("cycle", "grace", "priority", "strategy", "days", "earliest", "max_chain", "schedule", "split", "interim")
OF_SERVER = ("policy", *TIMING, "copies", "holding", "min_copies", "spindle")
TREE = {
    "include": [],
    "exclude": [],
    "one_file_system": True,
    "before": None,
    "after": None,
}


def _is_list(value: t.Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _mapping(value: t.Any, what: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise AnsibleFilterError(f"{what} must be a mapping, not {_kind(value)}")
    return {str(key): one for key, one in value.items()}


def _kind(value: t.Any) -> str:
    return "a list" if _is_list(value) else f"{str(value)!r}"


def _merge(below: t.Any, above: t.Any) -> t.Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        merged = dict(below)
        for key, value in above.items():
            merged[key] = _merge(merged[key], value) if key in merged else value
        return merged
    return copy.copy(above)


def _secrets(options: t.Any) -> tuple:
    kind = options.get("type")
    return SECRET + SECRET_OF_PRUNING + SECRET_OF_TYPE.get(kind if isinstance(kind, str) else "", ())


def _events(
    mail: t.Any, mail_options: t.Any, more: t.Any, folder: str = ""
) -> tuple[dict[str, dict[str, t.Any]], dict[str, str]]:
    """Who is told what happened: (sections of stowage.yml, their secrets by file name); the files will be in folder."""
    given = {}
    if mail:
        to = list(mail) if _is_list(mail) else [str(mail)]
        given["mail"] = {"type": "mail", "to": to, **_mapping(mail_options, "backup_server_mail_options")}
    for name, options in _mapping(more, "backup_server_events").items():
        if name in given:
            raise AnsibleFilterError("backup_server_events: mail is there already, by backup_server_mail: keep one")
        given[name] = _mapping(options, f"event {name}")
    files = {}
    for name, options in given.items():
        kind = options.get("type")
        for key, named in SECRET_OF_EVENT.get(kind if isinstance(kind, str) else "", {}).items():
            value = options.pop(key, None)
            if not value:
                continue
            if not NAME.match(name):
                raise AnsibleFilterError(f"{name!r} cannot name an event")
            if "\n" in str(value):
                raise AnsibleFilterError(f"event {name}: {key} is more than one line")
            files[f"{name}.{key}"] = f"{value}\n"
            options[named] = f"{folder}/{name}.{key}"
    return given, files


def credentials(targets: t.Any, mail: t.Any = None, events: t.Any = None) -> dict[str, str]:
    """File name -> content of every file of secrets: of each target that has any, of the mail server, of those who are
    told what happened."""
    files = {}
    for name, options in _mapping(targets, "backup_server_targets").items():
        options = _mapping(options, f"target {name}")
        found = {key: str(one) for key, one in options.items() if key in _secrets(options) and one}
        pruning = {key[len("delete_") :]: found.pop(key) for key in SECRET_OF_PRUNING if key in found}
        if (found or pruning) and not NAME.match(name):
            raise AnsibleFilterError(f"{name!r} cannot name a target")
        if found:
            files[f"{name}.json"] = json.dumps(found, indent=1, sort_keys=True) + "\n"
        if pruning:
            files[f"{name}.pruning.json"] = json.dumps(pruning, indent=1, sort_keys=True) + "\n"
    files.update(_events("anyone" if mail else "", mail, events)[1])
    return files


def server_config(settings: t.Any) -> dict[str, t.Any]:
    """The content of stowage.yml, without secrets. Only what differs from the engine's defaults is written."""
    given = _mapping(settings, "the settings of the server")
    folder = given["credentials_folder"]
    config: dict[str, t.Any] = {"state": given["state_folder"], "holding": given["holding"]}
    if not _is_list(config["holding"]) or not config["holding"]:
        raise AnsibleFilterError(
            "backup_server_holding must list at least one folder, such as [{path: /srv/holding, use: 500 GiB}]"
        )
    for key in ("dumps_at_once", "copies_at_once"):
        config[key] = int(given[key])
    config["cycle"] = {"days": float(given["cycle_days"])}
    if config["cycle"]["days"].is_integer():
        config["cycle"]["days"] = int(config["cycle"]["days"])
    if given.get("first_nights"):
        nights = str(given["first_nights"])
        config["cycle"]["first_nights"] = int(nights) if nights.isdigit() else nights
    interim = str(given.get("interim", "")).lower()
    if interim:  # YAML's own off is false
        number = re.fullmatch(r"\d+(?:\.\d+)?", interim)
        config["cycle"]["interim"] = float(interim) if number else "off" if interim == "false" else interim
    for key in ("limits", "planning", "networks", "retry", "prices", "prune", "verify", "drill"):
        if given.get(key):
            config[key] = _mapping(given[key], f"backup_server_{key}")
    if given.get("copies") is not None:  # an empty list means that nothing is copied
        if not _is_list(given["copies"]):
            raise AnsibleFilterError("backup_server_copies must be a list, such as [{target: nas, keep: {last: 7}}]")
        config["copies"] = list(given["copies"])
    files = credentials(given["targets"])
    config["targets"] = {}
    for name, options in _mapping(given["targets"], "backup_server_targets").items():
        options = _mapping(options, f"target {name}")
        config["targets"][name] = {key: one for key, one in options.items() if key not in _secrets(options)}
        if f"{name}.json" in files:
            config["targets"][name]["credentials"] = f"{folder}/{name}.json"
        if f"{name}.pruning.json" in files:
            config["targets"][name]["delete_credentials"] = f"{folder}/{name}.pruning.json"
    config["policies"] = _mapping(given["policies"], "backup_server_policies")
    events = _events(given["mail"], given["mail_options"], given.get("events"), folder)[0]
    if events:
        config["events"] = events
    return _merge(config, _mapping(given["more"], "backup_server_config"))


def merge_sources(variables: t.Any) -> dict[str, dict[str, t.Any]]:
    """Sources by name from several variables, given as [[name of variable, its value], …], a later one on top.

    A string is a path with policy standard; null takes a source away again.
    """
    merged: dict[str, t.Any] = {}
    for variable, value in variables:
        for name, source in _mapping(value, variable).items():
            if not NAME.match(name) or ".." in name:
                raise AnsibleFilterError(f"{variable}: {name!r} cannot name a source: use letters, digits, . _ and -")
            if source is None:
                merged.pop(name, None)
                continue
            if isinstance(source, str):
                source = {"path": source}
            merged[name] = _merge(merged.get(name, {}), _mapping(source, f"{variable}: source {name}"))
    return {name: _source(name, source) for name, source in sorted(merged.items())}


def _source(name: str, given: dict[str, t.Any]) -> dict[str, t.Any]:
    source = {"type": "tree", "policy": "standard", **given}
    if source["type"] == "tree":
        unknown = sorted(set(source) - {"type", "path", *OF_SERVER, *TREE})
        if unknown:
            known = ", ".join(["path", *OF_SERVER, *TREE])
            raise AnsibleFilterError(f"source {name}: unknown option {unknown[0]!r}; a tree has {known}")
        path = source.get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            raise AnsibleFilterError(f"source {name}: path must be absolute, such as /etc, not {path!r}")
        source["path"] = str(path).rstrip("/") or "/"
        for key in ("include", "exclude"):
            value = source.get(key)
            if value is not None and not _is_list(value):
                raise AnsibleFilterError(f"source {name}: {key} must be a list of patterns, such as ['*.tmp']")
    return source


def sealing(policies: t.Any, more: t.Any = None, by: t.Any = None) -> list[str]:
    """Names of the policies that seal, of two mappings of which the second goes on top; by: only client or server."""
    merged = _merge(_mapping(policies, "backup_server_policies"), _mapping(more, "policies of backup_server_config"))
    wanted = ("client", "server") if by is None else (by,)
    given = {name: _mapping(policy, f"policy {name}").get("encrypt") for name, policy in merged.items()}
    return sorted(name for name, encrypt in given.items() if encrypt in wanted)


def agent_config(
    sources: t.Any, client: str, scratch: str, permits: str, sealing: t.Any = (), recipients: t.Any = ()
) -> str:
    """The text of agent.json: what this client gives, and where it may be written to; sealing: policies whose sources
    it must seal, for these recipients."""
    listed = {}
    for name, source in sources.items():
        options = {key: value for key, value in source.items() if key not in ("type", *OF_SERVER)}
        if source["type"] == "tree":
            options = {"path": None, **TREE, **options}
        sealed = source["policy"] in sealing
        listed[name] = {
            "type": source["type"], "options": options, "encrypt": "client" if sealed else "none",
            "recipients": sorted(recipients) if sealed else [],
        }  # fmt: skip
    content = {"schema": 1, "client": client, "sources": listed, "scratch": scratch, "permits": permits}
    return json.dumps(content, indent=1, sort_keys=True, default=str) + "\n"


def host_keys(text: str) -> list[str]:
    """`type base64` of each public host key in what cat printed; comments and anything else left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and re.match(r"[a-z0-9@.-]+\Z", words[0]) and re.match(r"[A-Za-z0-9+/]{40,}=*\Z", words[1]):
            found.append(" ".join(words[:2]))
    return sorted(set(found))


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {
            "agent_config": agent_config,
            "credentials": credentials,
            "host_keys": host_keys,
            "merge_sources": merge_sources,
            "sealing": sealing,
            "server_config": server_config,
        }
