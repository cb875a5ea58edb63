"""YAML with a memory: plain values plus the file and line where each of them stands.

Here lives reading one YAML file into values and places; what the values mean lives in config.py. Keys are
always the text as written (a client may be called 10 or on); a key written twice is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import yaml

from ..errors import ConfigError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Loc = Tuple[Any, ...]


class Place(NamedTuple):
    """Where something stands, for messages: `FILE:LINE`."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def read(file: Path, places: Dict[Loc, Place]) -> Any:
    """The value in file (None when it is empty); adds the place of every key and item to places by its path.

    Raises ConfigError that names file and line.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file", "name another with --config, or run the playbook site") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is no UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", "run as root or as the user stowage") from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        places[()] = Place(file, 1)
        return None if node is None else _value(loader, node, (), file, places, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1 if mark else 1)
        told = " ".join(str(error.problem or error.context or "is no YAML").split())
        raise ConfigError(f"{place}: {told}", "see whether indentation, quotes and colons are right") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _value(loader, node, loc: Loc, file: Path, places: Dict[Loc, Place], above: tuple) -> Any:
    if any(node is one for one in above):
        raise ConfigError(f"{Place(file, node.start_mark.line + 1)}: an alias contains itself")
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            places[(*loc, number)] = Place(file, item.start_mark.line + 1)
            items.append(_value(loader, item, (*loc, number), file, places, above))
        return items
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    result: Dict[str, Any] = {}
    for key, value in node.value:
        place = Place(file, key.start_mark.line + 1)
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key must be a word")
        if key.tag == "tag:yaml.org,2002:merge":
            raise ConfigError(f"{place}: merge keys (<<) are not read", "write the keys out, or use a policy")
        name = key.value
        if name in result:
            raise ConfigError(f'{place}: key "{name}" stands twice, first in line {places[(*loc, name)].line}')
        places[(*loc, name)] = place
        result[name] = _value(loader, value, (*loc, name), file, places, above)
    return result
