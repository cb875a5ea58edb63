"""What is wrong with the configuration, in our words: pydantic's findings, names that nothing bears, paths of keys.

Here live words only; what must hold between sections lives in config.py and config_copies.py.
"""

from __future__ import annotations

import difflib
import json
import types
from typing import Any, Dict, Iterable, List, Tuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .config_files import Wrong, nearest
from .yaml_lines import Loc, Place


def add_all(wrong: Wrong, error: ValidationError, model: type, base: Loc, secrets=(), more_keys=()) -> None:
    """pydantic's findings in our words."""
    for one in error.errors(include_url=False):
        loc = (*base, *one["loc"])
        place = nearest(wrong.places, loc)
        kind, value = one["type"], one.get("input")
        if kind == "extra_forbidden":
            here = _model_at(model, one["loc"][:-1])
            _extra(wrong, place, loc[-1], here, more_keys if len(one["loc"]) == 1 else ())
        elif kind == "missing":
            wrong.add(place, f"{place}: {path(loc)} is missing")
        elif kind == "value_error":
            reason = str(one["ctx"]["error"])
            # of a section as a whole nothing is shown: there may be anything in it
            bare = not one["loc"] or loc[-1] in secrets or reason.startswith(("'", '"', f"{value!r} "))
            told = "" if bare else shown(value) + " "
            wrong.add(place, f"{place}: {path(loc)}: {told}{reason}")
        else:
            told = "the value" if loc and loc[-1] in secrets else shown(value)
            wrong.add(place, f"{place}: {path(loc)}: {told} {_told(kind, one.get('ctx') or {}, one['msg'], value)}")


def _extra(wrong: Wrong, place: Place, word: Any, model: Any, more_keys: Iterable[str]) -> None:
    if word in getattr(model, "later", ()):
        wrong.add(place, f'{place}: "{word}" is not available in this version', "remove it until it is")
        return
    known = [*(own_keys(model) if isinstance(model, type) else ()), *more_keys]
    wrong.unknown(place, str(word), known)


def own_keys(model: type) -> List[str]:
    return [one.alias or name for name, one in model.model_fields.items()]


def _model_at(model: Any, loc: Loc) -> Any:
    """The model that the value at loc was checked by."""
    for step in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            found = model.model_fields.get(step)
            model = found.annotation if found else None
        elif get_origin(model) in (dict, list, tuple):
            model = get_args(model)[-1 if get_origin(model) is dict else 0]
        while get_origin(model) in (Union, types.UnionType):
            model = next((one for one in get_args(model) if one is not type(None)), None)
    return model


def _told(kind: str, context: Dict[str, Any], message: str, value: Any) -> str:
    """What is wrong with the value, as the end of a sentence that begins with it."""
    if kind == "literal_error":
        # pydantic: "'none', 'client' or 'server'"
        words = [word.strip(" '") for word in context["expected"].replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(str(value), words, 1)
        guess = f', did you mean "{close[0]}"?' if close else ""
        return "is none of " + ", ".join(words) + guess
    plain = {
        "string_type": "is no text: write it in quotes",
        "int_type": "is no whole number",
        "int_from_float": "is no whole number",
        "int_parsing": "is no whole number",
        "float_type": "is no number",
        "float_parsing": "is no number",
        "bool_type": "is neither true nor false",
        "bool_parsing": "is neither true nor false",
        "list_type": "is no list",
        "tuple_type": "is no list",
        "dict_type": "is no mapping of keys to values",
        "model_type": "is no mapping of keys to values",
        "too_short": "is too short",
    }
    if kind in plain:
        return plain[kind]
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        (bound,) = (context[key] for key in ("gt", "ge", "lt", "le") if key in context)
        words = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
        return f"must be {words.get(kind, 'at most')} {bound:g}"
    return "is wrong: " + " ".join(message.split())


def shown(value: Any) -> str:
    if value is None:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:
        text = f'"{value}"'  # a date or time, as YAML reads them
    return text if len(text) <= 60 else text[:57] + "..."


def missing(loc: Loc, what: str, word: str, known: Iterable[str], hint: str = "") -> Tuple[str, str]:
    """Message and hint of a name that nothing bears."""
    close = difflib.get_close_matches(word, list(known), 1)
    guess = f', did you mean "{close[0]}"?' if close else ""
    there = ", ".join(sorted(known)) or "none"
    return f'{path(loc)}: there is no {what} "{word}"{guess}', hint or f"there are: {there}"


def path(loc: Loc) -> str:
    """`holding[0].use`"""
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else ("." if text else "") + str(step)
    return text

