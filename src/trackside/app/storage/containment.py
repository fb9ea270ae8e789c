"""Whether a JSON value has everything that another one has, in the sense of PostgreSQL's `@>`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from trackside.app.storage._rows.arguments import check_size
from trackside.app.storage.errors import InvalidQueryError
from trackside.harness.types import Json

__all__ = ["Wanted", "contains"]

MOST_WANTED: Final = 20_000
MOST_COMPARISONS: Final = 1_000_000
_MOST_HASHED: Final = 2**63  # of larger ones, anybody who wants to can find any number with the same hash


class _Elements:
    """Elements that a list must have: those that are looked up, and those that are compared one by one."""

    __slots__ = ("others", "plain")

    def __init__(self, wanted: list[Json]) -> None:
        keys = [_key(one) for one in wanted]
        self.plain = frozenset(key for key in keys if key is not None)
        self.others = [_prepared(one) for one, key in zip(wanted, keys, strict=True) if key is None]


type _Prepared = Json | dict[str, _Prepared] | _Elements


class Wanted:
    """What values must have: objects the wanted keys, with values that have what is wanted of them; lists
    an element for each one wanted.

    One instance is for one look at any number of values. Comparisons whose number grows with these values alone are not
    limited. Those whose number also grows with what is wanted, several objects or lists in a list, may be a million and
    no more.

    Raises:
        InvalidQueryError: it has too many values, or is nested too deep.
    """

    def __init__(self, field: str, wanted: Json) -> None:
        check_size(field, wanted, MOST_WANTED)
        self._field = field
        self._prepared = _prepared(wanted)
        self._left = MOST_COMPARISONS

    def is_in(self, having: Json) -> bool:
        """Whether a value has all of it.

        Raises:
            InvalidQueryError: it would take too many comparisons.
        """
        return self._is_in(having, self._prepared, counts=False)

    def _is_in(self, having: Json, wanted: _Prepared, *, counts: bool) -> bool:
        if counts:
            self._count(1)
        if isinstance(wanted, dict):
            if not isinstance(having, dict):
                return False
            for key, inner in wanted.items():  # not all(…): threads are looked at by the hundred thousand
                if key not in having or not self._is_in(having[key], inner, counts=counts):
                    return False
            return True
        if isinstance(wanted, _Elements):
            return isinstance(having, list) and self._are_in(having, wanted, counts=counts)
        if isinstance(wanted, bool) or isinstance(having, bool):  # to Python, True is 1
            return having is wanted
        return bool(having == wanted)

    def _are_in(self, having: list[Json], wanted: _Elements, *, counts: bool) -> bool:
        if wanted.plain:
            if counts:
                self._count(len(having))
            if len(wanted.plain.intersection(map(_key, having))) < len(wanted.plain):
                return False
        for other in wanted.others:
            for one in having:
                if self._is_in(one, other, counts=counts):
                    break
            else:
                return False
            counts = True  # the next one is looked for from the beginning
        return True

    def _count(self, comparisons: int) -> None:
        self._left -= comparisons
        if self._left < 0:
            why = f"its lists would take more than {MOST_COMPARISONS:,} comparisons: name fewer objects in them"
            raise InvalidQueryError(field=self._field, value="…", why=why)


def contains(having: Json, wanted: Json) -> bool:
    """Whether a value has all that is wanted. To look at many values at once, use `Wanted`."""
    return Wanted("wanted", wanted).is_in(having)


def _prepared(wanted: Json) -> _Prepared:
    if isinstance(wanted, dict):
        return {key: _prepared(inner) for key, inner in wanted.items()}
    return _Elements(wanted) if isinstance(wanted, list) else wanted


def _key(value: Json) -> Hashable | None:
    """The key that stands for a value in a set; None if nothing can. In a set, too, True is 1 to Python."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return (value,)
    if isinstance(value, (int, float)) and -_MOST_HASHED < value < _MOST_HASHED:
        return value
    return None
