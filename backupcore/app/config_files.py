"""Reads stowage.yml, clients.d/*.yml and targets.d/*.yml into plain values with their places; collects what is wrong.

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
    """What stands in the files. content: stowage.yml with what clients.d and targets.d hold in it, all unchecked."""

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
    for section in ("clients", "targets"):
        if content.setdefault(section, {}) is None:
            content[section] = {}
        for name, value in _section_files(file.parent / f"{section}.d", section, places, wrong):
            if isinstance(content[section], dict):
                content[section][name] = value
    clients = content["clients"]
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


def _section_files(
    folder: Path, section: str, places: Dict[Loc, Place], wrong: Wrong
) -> Iterable[Tuple[str, Any]]:  # fmt: skip
    """(client or target, what it is) of each file; one of two files is told by both."""
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
            if key != section:
                hint = f"a file of {folder.name} holds `{section}:` and nothing else"
                wrong.unknown(own[(key,)], key, [section], hint)
        found = content.get(section) or {}
        if not isinstance(found, dict):
            wrong.add(own[(section,)], f"{own[(section,)]}: {section}: is no mapping of names to {section}")
            continue
        for name, value in found.items():
            place = own[(section, name)]
            if (section, name) in places:
                first = places[(section, name)]
                told = f'{place}: {section[:-1]} "{name}" stands twice, first in {first}'
                wrong.add(place, told, "remove one of them")
                continue
            places.update({loc: where for loc, where in own.items() if loc[:2] == (section, name)})
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
