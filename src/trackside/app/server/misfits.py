"""Why what a client sent does not fit, in a sentence: which field, what it has to be, and what it is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import inspect

_AT: Final = re.compile(r"(?P<what>.*?)(?: - at (?:`(?:key|\.\.\.)` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_EXPECTED: Final = re.compile(r"Expected `([^`]*)`(.*)", re.DOTALL)
_BOUND: Final = re.compile(r" (of length )?(>=|<=|>|<) (\S+)")
_KINDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "datetime": "a time as in ISO 8601",
}
_BOUNDS: Final = {">=": "{} at least", "<=": "{} at most", ">": "more than {}", "<": "less than {}"}
_NOT_THERE: Final = object()


def misfit(exc: msgspec.ValidationError, kind: Any, given: Any, whole: str = "the body") -> str:
    """Why something does not fit, for whoever sent it.

    Args:
        exc: what was raised when it was read.
        kind: the type that it does not have.
        given: what was sent.
        whole: what to call all of it.
    """
    found = _AT.fullmatch(str(exc))
    if found is None:
        return f"{whole} does not fit: {exc}"
    what, path = found["what"], found["path"] or ""
    steps = [name or index for name, index in _STEP.findall(path)]
    name = path.removeprefix(".").replace("[...]", "") or whole
    types, value = list(_types_at(_parts(inspect.type_info(kind)), steps)), _value_at(given, steps)
    if (unknown := _UNKNOWN.fullmatch(what)) is not None:
        where = f" in {name}" if steps else ""
        return unknown_field("field", unknown[1], _fields_of(types), where)
    if (missing := _MISSING.fullmatch(what)) is not None:
        return f"{name}.{missing[1]} is missing" if steps else f"{missing[1]} is missing"
    if what.startswith("Invalid enum value"):
        known = [str(one) for kind in types if isinstance(kind, inspect.LiteralType) for one in kind.values]
        shown = _shown(what.removeprefix("Invalid enum value ").strip("'") if value is _NOT_THERE else value)
        return f"{name} = {shown} is not known{_choice(value, sorted(one for one in known if one))}"
    if (expected := _EXPECTED.fullmatch(what)) is not None:
        return f"{name} has to be {_wanted(expected[1], expected[2])}{_is(value)}"
    return f"{name} does not fit: {what}{_is(value)}"


def unknown_field(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """The sentence about a name that does not exist."""
    return f"there is no {what} {name[:80]!r}{where}{_choice(name, known)}"


def _choice(wrong: Any, known: Iterable[str]) -> str:
    """What might have been meant, and which names exist."""
    listed = list(known)
    if not listed:
        return ""
    near = difflib.get_close_matches(wrong[:80], listed, 1, 0.6) if isinstance(wrong, str) else []
    there = f"{'T' if near else 't'}here {'are' if len(listed) > 1 else 'is'} {', '.join(listed)}"
    return f"; did you mean {near[0]}? {there}" if near else f"; {there}"


def _wanted(kinds: str, rest: str) -> str:
    *before, last = [_KINDS.get(kind, kind) for kind in kinds.split(" | ")]
    wanted = f"{', '.join(before)} or {last}" if before else last
    bound = _BOUND.match(rest)
    if bound is None:
        return wanted if rest.startswith(", got") or not rest else f"{wanted}{rest}"
    return f"{wanted} {'with' if bound[1] else 'of'} {_BOUNDS[bound[2]].format(bound[3])}"


def _is(value: Any) -> str:
    return "" if value is _NOT_THERE else f", and is {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value!r:.80}"


def _parts(kind: inspect.Type) -> Sequence[inspect.Type]:
    """A type, or those of a union."""
    if isinstance(kind, inspect.Metadata):
        return _parts(kind.type)
    return [part for one in kind.types for part in _parts(one)] if isinstance(kind, inspect.UnionType) else [kind]


def _types_at(types: Sequence[inspect.Type], steps: Sequence[str]) -> Iterator[inspect.Type]:
    """The types of the value at a place, in any of these types that have the place."""
    if not steps:
        yield from types
        return
    for kind in types:
        inner: inspect.Type | None = None
        if isinstance(kind, inspect.StructType):
            inner = next((field.type for field in kind.fields if field.encode_name == steps[0]), None)
        elif isinstance(kind, inspect.DictType):
            inner = kind.value_type
        elif isinstance(kind, inspect.ListType | inspect.VarTupleType | inspect.SetType):
            inner = kind.item_type
        if inner is not None:
            yield from _types_at(_parts(inner), steps[1:])


def _fields_of(types: Sequence[inspect.Type]) -> list[str]:
    return [field.encode_name for kind in types if isinstance(kind, inspect.StructType) for field in kind.fields]


def _value_at(given: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        if isinstance(given, dict) and step in given:
            given = given[step]
        elif isinstance(given, list) and step.isdecimal() and int(step) < len(given):
            given = given[int(step)]
        else:
            return _NOT_THERE
    return given
