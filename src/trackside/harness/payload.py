"""One canonical JSON form for whatever an agent or caller hands us (I9).

Agents put anything into an event: bytes, sets, a cycle, a number with 400 digits, half of an emoji. JSON and the
databases below know less. `canonical` turns every value into plain JSON before a sequence number is spent, says whether
it had to change anything, and shares nothing with the value it was given, so an event never changes after it was made.

    >>> canonical({"when": {1, 2}, "raw": b"hi"})
    ({'when': [1, 2], 'raw': 'aGk='}, True)
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from trackside.harness.errors import PayloadError
from trackside.harness.foreign.failures import named_text_of
from trackside.harness.foreign.objects import dump_of, dumped, fields_of, is_sized, number_in, pairs_of
from trackside.harness.types import Json, JsonObject

MAX_CHARS = 1_048_576
"""Characters of text that one payload keeps; what goes beyond is cut and marked."""

WHOLE_CHARS = 1 << 28  # more than fits anywhere, and still a bound
"""Characters of a value that is no payload of an event: nothing of it is cut."""

MAX_DEPTH = 100
"""How deep a payload may be nested; what lies deeper is replaced by a marker."""

MORE = "…"
"""The key under which a mapping says how many of its keys were cut."""

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1  # what JSON readers in C and both databases give back unchanged
_REPR_CHARS = 1_000
_MARKER_CHARS = 64  # more than any text that says what was cut
_NUL = rb"\u0000"
_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19  # digits, perhaps too many for 64 bits
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_MARKER = "sanitized"
_CONTAINERS = frozenset({dict, list, tuple})


def canonical_payload(
    value: Mapping[str, Any], *, max_chars: int = MAX_CHARS, max_depth: int = MAX_DEPTH, path: str = "payload"
) -> JsonObject:
    """The payload of an event in canonical form; with `"sanitized": true` in it if anything had to be changed.

    Raises:
        PayloadError: `value` is not a mapping, or a value's own code (a property, `__str__`) fails while it is read.
    """
    return _payload(value, max_chars, max_depth, path)[0]


def canonical_text(value: Mapping[str, Any], *, max_chars: int, max_depth: int) -> tuple[JsonObject, str]:
    """The payload of an event in canonical form, as `canonical_payload` gives it, and the same as compact JSON text.

    Raises:
        PayloadError: as `canonical_payload`.
    """
    plain, text = _payload(value, max_chars, max_depth, "payload")
    return plain, (_encode(plain) if text is None else text).decode()


def _payload(value: Any, max_chars: int, max_depth: int, path: str) -> tuple[JsonObject, bytes | None]:
    """A payload in canonical form, and its text if that is known."""
    if type(value) is not dict and not isinstance(value, Mapping):
        raise PayloadError(path=path, why=f"an event's payload is a mapping, not {type(value).__name__}")
    if (copied := _copy_of_plain(value, max_chars, max_depth)) is not None:
        return copied
    plain, changed = _walked(value, max_chars, max_depth, path)
    if changed:
        own, plain[_MARKER] = plain.get(_MARKER, True), True
        if own is not True:  # somebody's own entry, which must not be lost
            plain[_Walk(max_chars, max_depth).other_name(_MARKER, plain)] = own
    return plain, None


def canonical(
    value: Any, *, max_chars: int = MAX_CHARS, max_depth: int = MAX_DEPTH, path: str = "value", as_fields: bool = False
) -> tuple[Json, bool]:
    """`value` as plain JSON that shares nothing with it, and whether that took more than copying.

    Tuples become lists and string enums their text silently. Everything else that JSON lacks counts as a change: NUL
    and lone surrogates become U+FFFD, NaN and infinities their names, integers beyond 64 bits their digits, bytes
    Base64, sets sorted lists, dates ISO 8601, keys text, data classes, structs of msgspec's, models, tables and rows of
    databases objects (a Pydantic field whose serializer fails: what is in it), numbers of other libraries Python's, any
    other object its `repr`. With `as_fields`, `value` itself may be one of these that become objects: that alone is no
    change.

    Raises:
        PayloadError: the value's own code failed while it was read.
    """
    if (copied := _copy_of_plain(value, max_chars, max_depth)) is not None:
        return copied[0], False
    return _walked(value, max_chars, max_depth, path, as_fields=as_fields and not isinstance(value, Mapping))


def with_whole_characters(text: str) -> str:
    """`text` with U+FFFD in place of each half character (a lone surrogate), which UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole(value: Any, *, path: str = "value") -> Json:
    """`value` as plain JSON, with all of its text: for what is streamed or remembered, and is no payload of an event.

    Raises:
        PayloadError: as `canonical`.
    """
    return canonical(value, max_chars=WHOLE_CHARS, path=path)[0]


def whole_text(value: Any) -> tuple[Json, bytes]:
    """As `whole`, and the same as JSON on one line.

    Raises:
        PayloadError: as `canonical`.
    """
    if (copied := _copy_of_plain(value, WHOLE_CHARS, MAX_DEPTH)) is not None:
        return copied
    plain, _ = _walked(value, WHOLE_CHARS, MAX_DEPTH, "value")
    return plain, _encode(plain)


def is_object(value: Any) -> bool:
    """Whether `value` is an object in JSON: a mapping, a data class, a struct, a model like Pydantic's, a row, a table."""
    if isinstance(value, Mapping) or fields_of(value) is not None or dump_of(value) is not None:
        return True
    try:
        return pairs_of(value) is not None
    except Exception:  # noqa: BLE001  # the value's own code failed: `canonical` says with what
        return False


def copied(value: Any) -> Any:
    """The same in dicts, lists and tuples of its own, so that it stays what it is whatever somebody does to `value`.

    Everything else in these is the same object. If `value` is nested too deep to be followed, or another thread changes
    it meanwhile, the result is `value` itself.
    """
    if (kind := type(value)) not in _CONTAINERS:
        return value
    try:
        return _copied(value, {}) if value else kind()
    except RuntimeError:
        return value


def json_bytes(value: Any) -> bytes:
    """A value as JSON on one line; what JSON lacks is in its canonical form.

    Raises:
        PayloadError: as `canonical`.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _encode(canonical(value)[0])


def shortened(plain: JsonObject, max_chars: int) -> JsonObject:
    """A copy of a plain object with at most `max_chars` of text, besides the marks of what was cut."""
    return _Walk(max_chars, MAX_DEPTH).mapping(plain, 1)


def _walked(value: Any, max_chars: int, max_depth: int, path: str, *, as_fields: bool = False) -> tuple[Json, bool]:
    # What must be cut is cut far enough that the text in its place fits, too: the form is its own canonical form.
    walk = _Walk(max_chars + _MARKER_CHARS * (max_depth + 2), max_depth)
    try:
        plain = walk.object(value, 0) if as_fields else walk.value(value, 0)
        if walk.cut:
            walk = _Walk(max_chars, max_depth)
            plain = walk.object(value, 0) if as_fields else walk.value(value, 0)
        return plain, walk.changed
    except RecursionError as exc:
        raise PayloadError(path=path, why="its own code recurses without end") from exc
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as exc:  # a property, __iter__ or __repr__ of the caller's object failed; ours does not raise
        raise PayloadError(path=path, why=f"reading it raised {named_text_of(exc)}") from exc


def _copied(value: Any, known: dict[int, Any]) -> Any:
    kind = type(value)
    if kind not in _CONTAINERS:
        return value
    if (copy := known.get(id(value))) is not None:  # it contains itself, or occurs in several places
        return copy
    if kind is dict:
        copy = known[id(value)] = {}
        for key, item in value.items():
            copy[key] = _copied(item, known) if type(item) in _CONTAINERS else item
        return copy
    if kind is tuple:
        return tuple(_copied(item, known) for item in value)
    copy = known[id(value)] = []
    copy.extend([_copied(item, known) if type(item) in _CONTAINERS else item for item in value])
    return copy


def _copy_of_plain(value: Any, max_chars: int, max_depth: int) -> tuple[Json, bytes] | None:
    """A copy of what is plain JSON already, and its text, four times as fast as a walk; None if it may not be plain.

    The encoder silently converts what JSON lacks (NaN, bytes, dates, sets, tuples, keys); what went through unconverted
    is equal to the original.
    """
    try:
        text = _encode(value)
        if len(text) > max_chars or _NUL in text or text.count(b"[") + text.count(b"{") > max_depth:
            return None
        if _LONG_NUMBER in text.translate(_AS_ZEROS):
            return None
        copied = _decode(text)
        return (copied, text) if copied == value else None
    except Exception:  # noqa: BLE001  # whatever it is that cannot be encoded or compared, the walk knows what to do
        return None


class _Walk:
    """One pass over one value: what is left of the text budget, the containers above, what had to be done."""

    __slots__ = ("above", "changed", "chars", "cut", "depth")

    def __init__(self, max_chars: int, max_depth: int) -> None:
        self.chars = max_chars
        self.depth = max_depth
        self.changed = False
        self.cut = False
        self.above: set[int] = set()

    def value(self, value: Any, depth: int) -> Json:
        kind = type(value)
        if kind is str:
            return self.text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if _INT_MIN <= value <= _INT_MAX else self.big_int(value)
        if kind is float:
            return value if math.isfinite(value) else self.said(_FLOAT_NAMES.get(value, "NaN"))
        if kind is dict:
            return self.nested(value, depth, self.mapping)
        if kind is list or kind is tuple:
            return self.nested(value, depth, self.sequence)
        return self.other(value, depth)

    def mark[T](self, replacement: T) -> T:
        self.changed = True
        return replacement

    def said(self, text: str) -> str:
        return self.mark(self.text(text))

    def text(self, text: str) -> str:
        kept = text[: self.chars]  # before it is cleaned, which costs more the longer it is
        cut = len(text) - len(kept)
        # Storage and every wire fail the whole batch for a character that they cannot store: clean it here.
        if not kept.isascii():
            try:
                kept.encode()
            except UnicodeEncodeError:
                kept = self.mark(with_whole_characters(kept))
        if "\0" in kept:
            kept = self.mark(kept.replace("\0", "\ufffd"))
        if cut:
            self.cut, self.chars = True, 0
            return self.mark(f"{kept}… [truncated: {cut} characters]")
        self.chars -= len(kept)
        return kept

    def big_int(self, number: int) -> Json:
        # Python refuses to print more than 4,300 digits; in base 16 it never does.
        return self.said(str(number) if number.bit_length() < 14_000 else hex(number))

    def nested[C](self, container: C, depth: int, copy: Callable[[C, int], Json]) -> Json:
        if depth >= self.depth:
            return self.said(f"[truncated: nested deeper than {self.depth}]")
        mark = id(container)
        if mark in self.above:
            return self.said("[truncated: contains itself]")
        self.above.add(mark)
        try:
            return copy(container, depth + 1)
        finally:
            self.above.discard(mark)

    def mapping(self, mapping: Mapping[Any, Any], depth: int) -> JsonObject:
        return self.entries(mapping.items(), len(mapping), depth)

    def entries(self, pairs: Iterable[tuple[Any, Any]], count: int, depth: int) -> JsonObject:
        plain: JsonObject = {}
        for key, item in pairs:
            if self.chars <= 0:
                self.changed = self.cut = True
                plain[MORE] = f"[truncated: {count - len(plain)} more keys]"
                break
            name = self.text(key) if type(key) is str else self.key(key)
            if name in plain:
                name = self.other_name(name, plain)
            plain[name] = self.value(item, depth)
        return plain

    def key(self, key: Any) -> str:
        if isinstance(key, str):
            return self.text(key.value if isinstance(key, Enum) else str.__str__(key))
        plain = self.value(key, self.depth - 1)
        self.changed = True
        return plain if isinstance(plain, str) else self.text(str(plain))

    def other_name(self, name: str, taken: JsonObject) -> str:
        # The keys 1 and "1" become the same text: neither entry may be lost.
        number = len(taken) + 1
        while (other := f"{name} ({number})") in taken:
            number += 1
        self.chars = max(0, self.chars - len(other) + len(name))
        return self.mark(other)

    def sequence(self, items: Iterable[Any], depth: int) -> list[Json]:
        plain: list[Json] = []
        for item in items:
            if self.chars <= 0:
                self.changed = self.cut = True
                plain.append("… [truncated: more items]")
                break
            # Numbers cost text too: a list of a million is as large as a string of as many characters.
            self.chars -= 1
            plain.append(self.value(item, depth))
        return plain

    def other(self, value: Any, depth: int) -> Json:
        if isinstance(value, Enum):
            self.changed |= not isinstance(value, str | int | float)
            return self.value(value.value, depth)
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, int):
            return self.value(int(value), depth)
        if isinstance(value, float):
            return self.value(float(value), depth)
        if isinstance(value, Mapping):
            return self.nested(value, depth, self.mapping)
        self.changed = True
        if isinstance(value, bytes | bytearray | memoryview):
            return self.text(base64.b64encode(value).decode("ascii"))
        if isinstance(value, AbstractSet):
            return self.nested(value, depth, self.unordered)
        if isinstance(value, datetime | date | time):
            return self.text(value.isoformat())
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, UUID | Decimal | PurePath):
            return self.text(str(value))
        return self.object(value, depth)

    def unordered(self, items: AbstractSet[Any], depth: int) -> list[Json]:
        # Sorted by the items' own text, so that the same set always has the same form.
        return sorted(self.sequence(items, depth), key=repr)

    def object(self, value: Any, depth: int) -> Json:
        if (names := fields_of(value)) is not None:
            given = ((name, getattr(value, name, None)) for name in names)
            fields = {name: item for name, item in given if item is not msgspec.UNSET}
            return self.nested(value, depth, lambda _, deeper: self.mapping(fields, deeper))
        if (dump := dump_of(value)) is not None:
            return self.nested(value, depth, lambda model, deeper: self.value(dumped(model, dump), deeper))
        if (number := number_in(value)) is not None:
            return self.value(number, depth)
        if (pairs := pairs_of(value)) is not None:
            return self.nested(value, depth, lambda _, deeper: self.entries(pairs, len(pairs), deeper))
        if isinstance(value, Iterable) and is_sized(value):
            return self.nested(value, depth, self.sequence)
        text = repr(value)
        return self.text(text if len(text) <= _REPR_CHARS else f"{text[:_REPR_CHARS]}…")


_FLOAT_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}
