"""Which setting a user probably meant who wrote one that is not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import get_type_hints

from nas.config.verbs import VERBS
from nas.settings import GROUPS

SEE_ALL = "--cfg job prints all settings, --help the groups"


def unknown(key: str, schema: type, chosen: Mapping[str, str]) -> tuple[str, str]:
    """Why there is no setting ``key``, and what to do: take another choice of its group, or another key.

    Args:
        key: as in ``train.epoch``, ``epochs``, or ``gate.architecture`` with a gate that has none.
        schema: the dataclass of all settings of the command.
        chosen: the choice of each group, as in ``{"gate": "uniform"}``; a group may have none.
    """
    group, _, leaf = key.rpartition(".")
    having = _having(schema)
    if holders := having.get(key):
        rule = f"{group}={chosen[group]} has no setting {leaf}" if group in chosen else f"no {group} is chosen"
        return rule, _have([f"{group}={name}" for name in holders], "it" if group in chosen else leaf)
    rule = f"there is no setting {key}"
    here = {name for name, of in having.items() if not of or chosen.get(name.partition(".")[0]) in of}
    tries = [(_same_leaf, here), *[(_same_leaf, having)] * (not group), (_close, here), (_close, having)]
    for find, among in tries:
        if found := find(key, among):
            more = [f"{name.partition('.')[0]}={one}" for name in found[:1] if name not in here for one in having[name]]
            return rule, f"did you mean {' or '.join(found)}?{' ' + _have(more, 'it') if more else ''}"
    if verbs := [f"nas-{verb}" for verb, other in VERBS.items() if key in _having(type(other))]:
        return rule, _have(verbs, "it")
    beside = [name.removeprefix(f"{group}.") for name in having if name in here and name.rpartition(".")[0] == group]
    return rule, f"choose one of {', '.join(beside)}; {SEE_ALL}" if beside else SEE_ALL


def _having(schema: type) -> dict[str, list[str]]:
    """The full keys of all settings, each with the choices of its group that have it; none where it is always there."""
    found: dict[str, list[str]] = {}
    for key, choice in _keys(schema):
        found.setdefault(key, []).extend([choice] if choice else [])
    return found


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, kind in get_type_hints(schema).items():
        if name.startswith("_") or (name == "name" and prefix):  # a choice is not made by its name
            continue
        yield f"{prefix}{name}", ""
        if name in GROUPS and not prefix:
            for choice, one in GROUPS[name].items():
                yield from ((key, choice) for key, _ in _keys(one, f"{name}."))
        elif isinstance(kind, type) and is_dataclass(kind):
            yield from _keys(kind, f"{prefix}{name}.")


def _same_leaf(key: str, known: Iterable[str]) -> list[str]:
    """Keys that end like ``key``: train.epochs for epochs, search.train.epochs for train.epochs or for train."""
    group, _, leaf = key.rpartition(".")
    for ends in (f".{key}",), (f".{leaf}", leaf), (f".{group}",):
        if found := sorted(name for name in known if name.endswith(ends[0]) or name in ends):
            return found[:3]
    return []


def _close(key: str, known: Iterable[str]) -> list[str]:
    """The key that is spelled alike: in its last part where the group is the same, or whole, or in its last part."""
    group, _, leaf = key.rpartition(".")
    names = {name: name for name in known if not key.startswith(f"{name}.")}
    leaves = {name.rpartition(".")[2]: name for name in names}
    beside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == group}
    for word, among in (leaf, beside), (key, {} if beside else names), (leaf, leaves):
        longer = [name for name in among if name.startswith(f"{word}_")]
        if found := get_close_matches(word, among, n=1, cutoff=0.7) or longer:
            return [among[found[0]]]
    return []


def _have(names: list[str], what: str) -> str:
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} {what}"
