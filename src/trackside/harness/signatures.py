"""What functions take and give, also where only a type checker knows all names in their annotations.

From Python 3.14 on annotations are not evaluated before they are asked for, and a name that is imported under
`TYPE_CHECKING` is not there then. Such annotations are text here, as they are with `from __future__ import annotations`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

_AS_TEXT: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _AS_TEXT["annotation_format"] = Format.STRING


def name_of(function: object) -> str:
    """What a function is called; of an object that is called like one, what its type is."""
    name = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def inner_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that somebody has written: behind decorators, in a `functools.partial`, or an object's `__call__`."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    return function if inspect.isroutine(function) else inspect.unwrap(type(function).__call__)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """What a function takes.

    Raises:
        TypeError, ValueError: as `inspect.signature`, of what has none.
    """
    try:
        return inspect.signature(function)
    except NameError:
        return inspect.signature(function, **_AS_TEXT)


def takes(function: Callable[..., Any], name: str, *, among_others: bool = True) -> bool:
    """Whether a function takes an argument of that name, be it `among_others` that it has no names for; not if nobody can
    tell.
    """
    try:
        parameters = signature_of(function).parameters
    except (TypeError, ValueError):
        return False
    if name in parameters:
        return True
    return among_others and any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def annotations_of(function: Any) -> Mapping[str, Any]:
    """The annotations of a function by its parameters' names, and `return`; of what has none an empty mapping."""
    try:
        return getattr(function, "__annotations__", None) or {}
    except NameError:
        signature = inspect.signature(function, **_AS_TEXT)
    said = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    said["return"] = signature.return_annotation
    return {name: annotation for name, annotation in said.items() if annotation is not inspect.Signature.empty}
