"""Plain data, as a file has them: whether a dataclass declares them, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: ``{"space.width": 8}``."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two nested sets, as in ``train.epochs: 2 -> 3``; of another choice its name alone."""
    old, new = flat(before), flat(now)
    other = [
        key.removesuffix("name") for key in old.keys() & new.keys() if key.endswith(".name") and old[key] != new[key]
    ]
    for prefix in other:
        old, new = (
            {k: v for k, v in one.items() if k == f"{prefix}name" or not k.startswith(prefix)} for one in (old, new)
        )
    return [f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted(old | new) if old.get(k) != new.get(k)]


def fits(value: object, kind: Any) -> bool:
    """Whether ``value`` is of the type ``kind``; OmegaConf does this for what a user writes."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(entry, inner[0]) for entry in value)
    if origin is dict:
        ok = isinstance(value, dict)
        return ok and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())  # type: ignore[attr-defined]
    if kind is int or kind is float:
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if is_dataclass(kind) and isinstance(value, dict):
        return _misfit(kind, value) == ""
    return isinstance(value, origin or kind)


def filled(schema: type[T], data: object) -> T:
    """An instance of the dataclass ``schema`` out of plain data, with those in its fields and lists.

    Raises:
        ValueError: something is missing, too many or of another type.
    """
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    if why := _misfit(schema, data):
        raise ValueError(why)
    kinds = get_type_hints(schema)
    values = {name: _made(value, kinds[name]) for name, value in data.items()}
    return schema(**values)


def _made(value: Any, kind: Any) -> Any:
    inner = get_args(kind)
    if get_origin(kind) is list and is_dataclass(inner[0]):
        return [filled(inner[0], entry) for entry in value]  # type: ignore[arg-type]
    if is_dataclass(kind) and isinstance(value, dict):
        return filled(kind, value)  # type: ignore[arg-type]
    return value


def _misfit(schema: Any, data: dict[str, Any]) -> str:
    kinds = get_type_hints(schema)
    for field in fields(schema):
        if field.name not in data:
            if field.default is MISSING and field.default_factory is MISSING:
                return f"it has no {field.name}"
        elif not fits(data[field.name], kinds[field.name]):
            return f"its {field.name} is of another type"
    unknown = [name for name in data if name not in kinds]
    return f"it has {unknown[0]!r} too" if unknown else ""
