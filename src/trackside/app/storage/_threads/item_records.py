"""What an item is, what may be kept as one, and which items a filter wants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trackside.app.storage._rows.arguments import check_size, is_plain, plain
from trackside.app.storage._rows.encoding import json_text
from trackside.app.storage.errors import InvalidItemError, InvalidQueryError
from trackside.harness.payload import canonical
from trackside.harness.types import Json

MAX_VALUE_BYTES: Final = 16 * 1_048_576
"""How much JSON one item may have. A value is never cut: a reader would go on with half of it."""

MAX_NAME_BYTES: Final = 1_000
"""How long a namespace may be, all its labels together, and how long a key: every database indexes this much."""

MAX_NUMBER: Final = 2**31 - 1

_MAX_MINUTES: Final = 5_000_000  # nine years and a half
_RESERVED: Final = "langgraph"
_WILD: Final = "*"
_OPERATORS: Final = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})
_MOST_WANTED: Final = 1_000
_MOST_NEEDLES: Final = 20  # a statement has no room for all that may be wanted
_NEEDLE_CHARS: Final = 1_000  # SQLite does not search for much longer ones


def stored_namespace(labels: Any) -> str:
    """The namespace of an item in the form in which it is stored.

    Raises:
        InvalidItemError: nothing can be kept there.
    """
    checked = _labels(labels, "namespace", InvalidItemError)
    if not checked:
        raise InvalidItemError(field="namespace", value=labels, why="it has one label at least")
    if checked[0] == _RESERVED:
        raise InvalidItemError(
            field="namespace", value=labels, why=f"its first label is not {_RESERVED!r}, which is LangGraph's"
        )
    return _joined(checked, "namespace")


def stored_prefix(labels: Any) -> str:
    """What the stored forms of all namespaces that begin with these labels begin with.

    Raises:
        InvalidQueryError: no namespace begins like this.
    """
    return "".join(f"{label}." for label in _labels(labels, "prefix", InvalidQueryError))


def pattern(labels: Any, *, field: str) -> tuple[str, ...]:
    """Labels that a namespace begins or ends with; "*" stands for any one.

    Raises:
        InvalidQueryError: no namespace does.
    """
    return _labels(labels, field, InvalidQueryError)


def fixed_part(labels: Sequence[str]) -> Sequence[str]:
    """The labels of a pattern before its first "*"."""
    return labels[: labels.index(_WILD)] if _WILD in labels else labels


def matches(labels: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether labels match a pattern."""
    return len(labels) == len(wanted) and all(one in (_WILD, other) for one, other in zip(wanted, labels, strict=True))


def labels_of(namespace: str) -> tuple[str, ...]:
    """The labels of a namespace that is in its stored form."""
    return tuple(namespace[:-1].split("."))


def _labels(said: Any, field: str, error: type[InvalidItemError | InvalidQueryError]) -> tuple[str, ...]:
    if isinstance(said, str) or not isinstance(said, Sequence):
        raise error(field=field, value=said, why="it is a sequence of labels")
    for label in said:
        if not is_plain(label) or not label or "." in label:
            raise error(
                field=field, value=said, why="a label is a text, not empty, without dots, NUL and half characters"
            )
    return tuple(said)


def _joined(labels: tuple[str, ...], field: str) -> str:
    joined = "".join(f"{label}." for label in labels)
    if len(joined.encode()) > MAX_NAME_BYTES:
        raise InvalidItemError(field=field, value=labels, why=f"it has {MAX_NAME_BYTES:,} bytes of UTF-8 at most")
    return joined


def stored_key(key: Any) -> str:
    """The key of an item.

    Raises:
        InvalidItemError: none can have it.
    """
    if not is_plain(key) or len(key.encode()) > MAX_NAME_BYTES:
        why = f"it is a text of {MAX_NAME_BYTES:,} bytes of UTF-8 at most, without NUL and half characters"
        raise InvalidItemError(field="key", value=key, why=why)
    return str(key)


def stored_value(value: Any) -> str:
    """The value of an item as JSON text.

    Raises:
        InvalidItemError: it is no mapping, or too large.
        PayloadError: a value's own code failed while it was read.
    """
    if not isinstance(value, Mapping):
        raise InvalidItemError(field="value", value=value, why="it is an object, a mapping of texts to JSON")
    text = json_text(canonical(value, max_chars=8 * MAX_VALUE_BYTES)[0])
    if (size := len(text.encode())) > MAX_VALUE_BYTES:
        why = f"it is {size:,} bytes of JSON, and the limit is {MAX_VALUE_BYTES:,}"
        raise InvalidItemError(field="value", value=value, why=why)
    return text


def checked_ttl(minutes: Any) -> float | None:
    """For how many minutes an item stays; None: for ever.

    Raises:
        InvalidItemError: it is no number of minutes.
    """
    if minutes is None:
        return None
    if type(minutes) not in {int, float} or not math.isfinite(minutes) or not 0 < minutes <= _MAX_MINUTES:
        why = f"it is a number of minutes above 0, {_MAX_MINUTES:,} at most, or None"
        raise InvalidItemError(field="ttl", value=minutes, why=why)
    return float(minutes)


def checked_number(field: str, said: Any) -> int:
    """How many of something.

    Raises:
        InvalidQueryError: it is no such number.
    """
    if type(said) is not int or not 0 <= said <= MAX_NUMBER:
        raise InvalidQueryError(field=field, value=said, why="it is a whole number from 0 up")
    return said


def checked_filter(said: Any) -> Mapping[str, Any]:
    """What the values of items have to contain.

    Raises:
        InvalidQueryError: it is no filter.
    """
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise InvalidQueryError(
            field="filter", value=said, why="it is an object of what values must have, by their keys"
        )
    check_size("filter", said, _MOST_WANTED)
    for key, wanted in said.items():
        plain("filter", key)
        _check_wanted(wanted)
    return said


def _check_wanted(wanted: Any) -> None:
    if not isinstance(wanted, Mapping):
        for inner in wanted if isinstance(wanted, (list, tuple)) else ():
            _check_wanted(inner)
    elif not _is_comparison(wanted):
        for inner in wanted.values():
            _check_wanted(inner)
    elif unknown := [key for key in wanted if key not in _OPERATORS]:
        why = f"{unknown[0]!r} is not a comparison; there are {', '.join(sorted(_OPERATORS))}"
        raise InvalidQueryError(field="filter", value=wanted, why=why)


def needles_of(wanted: Mapping[str, Any]) -> list[str]:
    """What stands in the text of every value that fits: not all that is wanted, but it leaves far fewer values.

    Only for texts: one and the same number can be written in several ways.
    """
    found = []
    for key, value in wanted.items():
        text = value.get("$eq") if isinstance(value, Mapping) else value
        if isinstance(text, str) and is_plain(text):
            found.append(f"{json_text(key)}:{json_text(text)}")
    return [needle for needle in found if len(needle) <= _NEEDLE_CHARS][:_MOST_NEEDLES]


def fits(value: Mapping[str, Json], wanted: Mapping[str, Any]) -> bool:
    """Whether a value has all that is wanted: the same; or of an object what is named of it; or what compares as asked.

    Numbers compare with numbers, texts with texts, and nothing else does.
    """
    return all(_fits(value.get(key), inner) for key, inner in wanted.items())


def _fits(value: Json, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if _is_comparison(wanted):
            return all(_compares(value, operator, other) for operator, other in wanted.items())
        return isinstance(value, dict) and fits(value, wanted)
    if isinstance(wanted, (list, tuple)):
        if not isinstance(value, list) or len(value) != len(wanted):
            return False
        return all(_fits(one, other) for one, other in zip(value, wanted, strict=True))
    return _is_same(value, wanted)


def _is_comparison(wanted: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and key.startswith("$") for key in wanted)


def _is_same(value: Json, other: Any) -> bool:
    if isinstance(value, bool) is not isinstance(other, bool):  # in Python True == 1, in JSON it is not
        return False
    return bool(value == other)


def _compares(value: Json, operator: str, other: Any) -> bool:
    if operator == "$eq":
        return _is_same(value, other)
    if operator == "$ne":
        return not _is_same(value, other)
    if not (_is_number(value) and _is_number(other)) and not (isinstance(value, str) and isinstance(other, str)):
        return False
    match operator:
        case "$gt":
            return bool(value > other)
        case "$gte":
            return bool(value >= other)
        case "$lt":
            return bool(value < other)
        case _:
            return bool(value <= other)


def _is_number(value: Any) -> bool:
    return type(value) in {int, float}
