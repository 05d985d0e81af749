"""Frozen dataclasses to JSON and back, strictly: unknown or wrongly typed fields are errors, and missing ones too.

A missing field that has a default takes it: files written before there was such a setting meant it.

A field whose type is a union of dataclasses is written with its class name under ``"type"``.
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from reals.runtime.errors import UserError, nearest

Config = TypeVar("Config")


def to_dict(config: Any) -> Any:
    """Return plain JSON values for a dataclass, tuples becoming lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {str(key): to_dict(item) for key, item in config.items()}
    return config


def from_dict(cls: type[Config], value: Any, where: str = "config") -> Config:
    """Rebuild a dataclass from :func:`to_dict`'s values.

    Raises:
        UserError: a field is unknown, missing, or of the wrong type; the message names its path.
    """
    return _parse(cls, value, where)


def _parse(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _parse_union(typing.get_args(kind), value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _parse_dataclass(kind, value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{where}: {value!r} is none of {list(typing.get_args(kind))}")
        return value
    if origin is tuple:
        arguments = typing.get_args(kind)
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, found {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(arguments) != len(value):
            raise UserError(f"{where}: expected {len(arguments)} values, found {len(value)}")
        return tuple(_parse(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(arguments, value, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected: Any = type(None) if kind is None else kind
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"{where}: expected {expected.__name__}, found {value!r}")
    return value


def _parse_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    classes: dict[str, Any] = {
        option.__name__: option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)
    }
    if isinstance(value, dict) and classes:
        name = value.get("type")
        if name not in classes:
            raise UserError(f"{where}: unknown type {name!r}{nearest(str(name), classes)}")
        return _parse(classes[name], value, where)
    for option in options:
        try:
            return _parse(option, value, where)
        except UserError:
            continue
    raise UserError(f"{where}: {value!r} fits none of {[getattr(o, '__name__', str(o)) for o in options]}")


def _parse_dataclass(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object for {cls.__name__}, found {value!r}")
    if value.get("type", cls.__name__) != cls.__name__:
        raise UserError(f"{where}: expected {cls.__name__}, found {value['type']!r}")
    given = {key: item for key, item in value.items() if key != "type"}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in given:
        if key not in fields:
            raise UserError(f"{where}: unknown field '{key}'{nearest(key, fields)}")
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in given and not has_default:
            raise UserError(f"{where}: field '{name}' is missing")
    try:
        return cls(**{name: _parse(hints[name], item, f"{where}.{name}") for name, item in given.items()})
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
