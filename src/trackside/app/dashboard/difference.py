"""What differs between two JSON values: each place where something was added, removed or changed, with old and new.

List elements that have an `id`, such as messages, are recognised by it; a different order is shown by their ids. Other
lists are compared from both ends: what is the same at the beginning and at the end is left out, and what is between is
compared in its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

import msgspec

MOST: Final = 200
"""How many changes are shown."""

DEPTH: Final = 40

type Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One place where two values differ."""

    path: str
    kind: Kind
    old: Any = None
    new: Any = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two values differ; with `is_cut`, there are more places than are listed."""

    changes: Sequence[Change]
    is_cut: bool = False


def difference(old: Any, new: Any, most: int = MOST) -> Difference:
    """What was added, removed and changed from one value to the other."""
    found = list(islice(_changes(old, new, "", 0), most + 1))
    return Difference(found[:most], len(found) > most)


def _changes(old: Any, new: Any, path: str, depth: int) -> Iterator[Change]:
    if _same(old, new):
        return
    if depth < DEPTH and isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _of_objects(old, new, path, depth)
    elif depth < DEPTH and isinstance(old, list) and isinstance(new, list):
        yield from _of_lists(old, new, path, depth)
    else:
        yield Change(path=path, kind="changed", old=old, new=new)


def _same(old: Any, new: Any) -> bool:
    """Whether two values are the same JSON: true is not 1. Objects that differ only in order may be found different."""
    if isinstance(old, dict | list) and isinstance(new, dict | list):
        return msgspec.json.encode(old) == msgspec.json.encode(new)
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _of_objects(old: Mapping[str, Any], new: Mapping[str, Any], path: str, depth: int) -> Iterator[Change]:
    for key in old:
        place = _key(path, key)
        if key not in new:
            yield Change(path=place, kind="removed", old=old[key])
        else:
            yield from _changes(old[key], new[key], place, depth + 1)
    for key in new:
        if key not in old:
            yield Change(path=_key(path, key), kind="added", new=new[key])


def _of_lists(old: list[Any], new: list[Any], path: str, depth: int) -> Iterator[Change]:
    places, before = _by_id(new), _by_id(old)
    if places is not None and before is not None:
        for id_, place in before.items():
            if id_ not in places:
                yield Change(path=f"{path}[{place}]", kind="removed", old=old[place])
            else:
                yield from _changes(old[place], new[places[id_]], f"{path}[{places[id_]}]", depth + 1)
        for id_, place in places.items():
            if id_ not in before:
                yield Change(path=f"{path}[{place}]", kind="added", new=new[place])
        old_order, new_order = [id_ for id_ in before if id_ in places], [id_ for id_ in places if id_ in before]
        if old_order != new_order:
            yield Change(path=path, kind="changed", old=old_order, new=new_order)
        return
    yield from _by_place(old, new, path, depth)


def _by_place(old: list[Any], new: list[Any], path: str, depth: int) -> Iterator[Change]:
    shorter = min(len(old), len(new))
    start = next((place for place in range(shorter) if not _same(old[place], new[place])), shorter)
    end = next(
        (count for count in range(shorter - start) if not _same(old[-1 - count], new[-1 - count])), shorter - start
    )
    olds, news = old[start : len(old) - end], new[start : len(new) - end]
    for place in range(max(len(olds), len(news))):
        at = f"{path}[{start + place}]"
        if place >= len(news):
            yield Change(path=at, kind="removed", old=olds[place])
        elif place >= len(olds):
            yield Change(path=at, kind="added", new=news[place])
        else:
            yield from _changes(olds[place], news[place], at, depth + 1)


def _by_id(elements: list[Any]) -> dict[str, int] | None:
    """The places of elements by their ids; None if one has no id, or two have the same."""
    places: dict[str, int] = {}
    for place, element in enumerate(elements):
        id_ = element.get("id") if isinstance(element, Mapping) else None
        if not isinstance(id_, str) or id_ in places:
            return None
        places[id_] = place
    return places


def _key(path: str, key: str) -> str:
    if key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"
