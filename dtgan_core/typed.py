"""Values that were read from a file, held against the types of the code that uses them.

    model = typed(read_json(path)["model"], ModelConfig, "model")  # a dataclass, made and checked
    typed(card, Card)                                # a TypedDict; there may be keys beside its own

The annotations say what is expected; the error names the first field that is missing, unknown or
of another type.
"""

from __future__ import annotations

import dataclasses
import reprlib
import sys
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

LARGEST_INT = 2**63  # no step, size or seed of ours comes near it
_WORDS = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}


def typed(value: Any, kind: Any, name: str = "") -> Any:
    """A value of a type, or an error that names its field.

    Args:
        value: what JSON or TOML gave.
        kind: int, float, str, bool, Any, Literal, list, tuple or dict of these, T | None, a
            dataclass (fields that are missing take their defaults, groups must be there; unknown
            ones are refused) or a TypedDict.
        name: of the field, such as "config.model"; empty for the whole file.

    Returns:
        The value; dataclasses and tuples are made of it.

    Raises:
        ValueError: it is of another type, not finite, or refused by its dataclass.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is NotRequired:
        return typed(value, parts[0], name)
    if origin in (Union, UnionType):
        (inner,) = (part for part in parts if part is not NoneType)
        return None if value is None else typed(value, inner, name)
    if origin in (list, tuple):
        _require(isinstance(value, list | tuple), value, "a list", name)
        return origin(typed(part, parts[0], f"{name}[{k}]") for k, part in enumerate(value))
    if origin is dict or dataclasses.is_dataclass(kind) or is_typeddict(kind):
        good = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        _require(good, value, "an object of named fields", name)
        return _fields(value, kind, f"{name}." if name else "")
    if origin is Literal:
        good, word = type(value) is str and value in parts, f"one of {', '.join(parts)}"
    elif kind is float:
        good, word = type(value) in (int, float) and abs(value) <= sys.float_info.max, _WORDS[float]
    else:
        good, word = type(value) is kind, _WORDS[kind]
        good = good and (kind is not int or abs(value) < LARGEST_INT)
    _require(good, value, word, name)
    return value


def _require(good: bool, value: Any, word: str, name: str) -> None:
    if not good:
        raise ValueError(f"found {name or 'in it'} = {reprlib.repr(value)}, expected {word}")


def _fields(value: dict[str, Any], kind: Any, prefix: str) -> Any:
    """The fields of a dict, a TypedDict or a dataclass, each held against its own type."""
    if get_origin(kind) is dict:
        return {key: typed(part, get_args(kind)[1], prefix + key) for key, part in value.items()}
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        optional = {key for key, hint in hints.items() if get_origin(hint) is NotRequired}
        needed = kind.__required_keys__ - optional
    else:
        needed = {key for key, hint in hints.items() if dataclasses.is_dataclass(hint)}
        unknown = sorted(value.keys() - hints.keys())
        if unknown:
            raise ValueError(
                f"found an unknown field {prefix}{unknown[0]}, expected of {', '.join(hints)}"
            )
    missing = [key for key in hints if key in needed and key not in value]
    if missing:
        raise ValueError(f"found no {prefix}{missing[0]}, expected it there")
    known = {key: typed(value[key], hints[key], prefix + key) for key in hints if key in value}
    if is_typeddict(kind):
        return {**value, **known}
    try:
        return kind(**known)
    except ValueError as error:
        raise ValueError(f"{prefix.rstrip('.') or 'it'}: {error}") from error
