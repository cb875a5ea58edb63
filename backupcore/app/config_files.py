"""Reads stowage.yml and clients.d/*.yml into plain values with their places, and collects what is wrong with them.

Here lives reading the files; what the values mean lives in config.py. Nothing here loads the models: connections are
begun by these values while the models are still loading (see early.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Tuple, Union

from ..errors import ConfigError
from . import yaml_lines
from .yaml_lines import Loc, Place


class ConfigErrors(ConfigError):
    """Everything wrong that was found at once: message is the first in the order of the files, others the rest."""

    def __init__(self, messages: List[Tuple[str, str]]):
        super().__init__(*messages[0])
        self.others = [message for message, _hint in messages[1:]]


class Wrong:
    """What is wrong, collected, told in the order of the files."""

    def __init__(self, places: Dict[Loc, Place]):
        self.places = places
        self.found: List[Tuple[Place, str, str]] = []

    def add(self, place: Place, message: str, hint: str = "") -> None:
        self.found.append((place, message, hint))

    def unknown(self, place: Place, word: str, known: Iterable[str], hint: str = "") -> None:
        import difflib

        known = list(known)
        close = difflib.get_close_matches(word, known, 1, 0.5)
        guess = f', did you mean "{close[0]}"?' if close else ""
        self.add(place, f'{place}: unknown key "{word}"{guess}', hint or "known here: " + ", ".join(sorted(known)))

    def stop(self) -> None:
        """Raises when something is wrong."""
        if self.found:
            unique = list(dict.fromkeys((message, hint) for _place, message, hint in sorted(self.found)))
            raise ConfigErrors(unique) if len(unique) > 1 else ConfigError(*unique[0])


@dataclass(frozen=True)
class Written:
    """What stands in the files. content: stowage.yml with the clients of clients.d in it, all of it unchecked."""

    file: Path
    content: Dict[str, Any]
    places: Dict[Loc, Place] = field(repr=False)
    wrong: Wrong = field(repr=False)


def read(file: Union[str, Path]) -> Written:
    """Reads all files. Raises ConfigError for what is no YAML; what else is wrong is collected."""
    file = Path(file).absolute()
    places: Dict[Loc, Place] = {}
    wrong = Wrong(places)
    content = _mapping(yaml_lines.read(file, places), file)
    clients = content.setdefault("clients", {})
    if clients is None:
        clients = content["clients"] = {}
    for name, value in _client_files(file.parent / "clients.d", places, wrong):
        if isinstance(clients, dict):
            clients[name] = value
    for key in ("targets", "policies", "events"):  # `targets:` with nothing below it is an empty section
        if key in content and content[key] is None:
            content[key] = {}
    _spell_out_sources(clients, places)
    return Written(file, content, places, wrong)


def nearest(places: Mapping[Loc, Place], loc: Loc) -> Place:
    """The place of loc, or of the nearest above it that is written."""
    while loc and loc not in places:
        loc = loc[:-1]
    return places[loc]


def _mapping(value: Any, file: Path) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{file}:1: is no mapping of keys to values")
    return value


def _client_files(folder: Path, places: Dict[Loc, Place], wrong: Wrong) -> Iterable[Tuple[str, Any]]:
    """(client, its section) of each file; a client of two files is told by both."""
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", "run as root or as the user stowage") from None
    for path in files:
        if path.suffix == ".yaml":
            wrong.add(Place(path, 1), f"{path}: only names that end in .yml are read", "rename it to .yml")
        if path.suffix != ".yml":
            continue
        own: Dict[Loc, Place] = {}
        content = _mapping(yaml_lines.read(path, own), path)
        for key in content:
            if key != "clients":
                wrong.unknown(own[(key,)], key, ["clients"], "a file of clients.d holds `clients:` and nothing else")
        section = content.get("clients") or {}
        if not isinstance(section, dict):
            wrong.add(own[("clients",)], f"{own[('clients',)]}: clients: is no mapping of names to clients")
            continue
        for name, value in section.items():
            place = own[("clients", name)]
            if ("clients", name) in places:
                first = places[("clients", name)]
                wrong.add(place, f'{place}: client "{name}" stands twice, first in {first}', "remove one of them")
                continue
            places.update({loc: where for loc, where in own.items() if loc[:2] == ("clients", name)})
            yield name, value


def _spell_out_sources(clients: Any, places: Dict[Loc, Place]) -> None:
    """`etc: /etc` means `etc: {path: /etc}`."""
    for name, client in clients.items() if isinstance(clients, dict) else ():
        sources = client.get("sources") if isinstance(client, dict) else None
        for source, value in sources.items() if isinstance(sources, dict) else ():
            if isinstance(value, str):
                sources[source] = {"path": value}
                loc = ("clients", name, "sources", source)
                places[(*loc, "path")] = places[loc]
