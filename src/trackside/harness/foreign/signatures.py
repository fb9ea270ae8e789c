"""What functions take and give, even if only a type checker knows all names in their annotations.

From Python 3.14 on annotations are not evaluated before they are asked for, and a name that is imported under
`TYPE_CHECKING` is not there then. Such annotations are text here, as they are with `from __future__ import annotations`.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

_AS_TEXT: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _AS_TEXT["annotation_format"] = Format.STRING


def name_of(function: object) -> str:
    """What a function is called; for an object that is called like one, what its type is."""
    name = getattr(function, "__name__", None) or getattr(getattr(function, "func", None), "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def inner_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that somebody has written: behind decorators, in a `functools.partial`, or an object's `__call__`."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    return function if inspect.isroutine(function) else inspect.unwrap(type(function).__call__)


def signature_of(function: Callable[..., Any], *, follow_wrapped: bool = True) -> inspect.Signature:
    """What a function takes; with `follow_wrapped`, what the one within its decorators takes.

    Raises:
        TypeError, ValueError: as `inspect.signature`, for what has none.
    """
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped)
    except NameError:
        return inspect.signature(function, follow_wrapped=follow_wrapped, **_AS_TEXT)


def takes(function: Callable[..., Any], name: str, *, among_others: bool = True) -> bool:
    """Whether a function takes an argument of that name, also `among_others` that it has no names for; False if nobody
    can tell.
    """
    try:
        parameters = signature_of(function).parameters
    except (TypeError, ValueError):
        return False
    if name in parameters:
        return True
    return among_others and any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def annotations_of(function: Any) -> Mapping[str, Any]:
    """The annotations of a function by its parameters' names, and `return`; an empty mapping for what has none."""
    try:
        return getattr(function, "__annotations__", None) or {}
    except NameError:
        signature = inspect.signature(function, **_AS_TEXT)
    said = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    said["return"] = signature.return_annotation
    return {name: annotation for name, annotation in said.items() if annotation is not inspect.Signature.empty}


def never_awaitable(function: Any, *, takes_one: bool = True) -> str | None:
    """Why a call of this function can never be awaited, where that is certain before any call; None where it is not.

    With `takes_one` it is called with one argument.
    """
    if not callable(function):
        return f"a {type(function).__name__} cannot take events"
    code = getattr(function, "__code__", None)
    fits = not takes_one
    if code is not None:
        own = inspect.ismethod(function)
        if code.co_argcount <= own and not code.co_flags & inspect.CO_VARARGS:
            return "it takes no argument, and an event is one"
        # Nearly all functions take this and nothing else, which can be seen at a glance.
        fits = fits or (code.co_argcount == own + 1 and not code.co_kwonlyargcount)
    if not fits and (why := _misfit(function)) is not None:
        return why
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return None
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return "it is a generator function, whose result nobody awaits"
    owner = getattr(function, "__self__", None)
    if isinstance(function, types.BuiltinFunctionType):  # print, or a list's append
        module = owner.__name__ if isinstance(owner, types.ModuleType) else type(owner).__module__
        if module in sys.stdlib_module_names:
            return "its result is not awaitable; wrap it in an async function"
    # Annotations say nothing of what a decorator made of a function: they are those of the function within.
    decorated = hasattr(function, "__wrapped__")
    if not decorated and not inspect.iscoroutinefunction(function) and _returns_only_none(function):
        return "it is a plain function that returns None; make it `async def`"
    return None


def _misfit(function: Callable[..., Any]) -> str | None:
    """Why a function cannot be called with one argument; None if it can, or nobody can tell."""
    if hasattr(function, "__wrapped__"):  # its decorator may add arguments of its own
        return None
    try:
        signature = signature_of(function, follow_wrapped=False)
    except (TypeError, ValueError):  # it is not written in Python, and does not say what it takes
        return None
    try:
        signature.bind(None)
    except TypeError as exc:
        return f"it is called with one argument: {exc}"
    return None


def _returns_only_none(function: Callable[..., Any]) -> bool:
    """Whether a plain function says, or its code shows, that all it ever returns is None."""
    if annotations_of(function).get("return", ...) in (None, "None"):
        return True
    code = getattr(function, "__code__", None)
    if code is None:
        return False
    return give_only_none(dis.get_instructions(code))


def give_only_none(steps: Iterable[dis.Instruction]) -> bool:
    """Whether code ends nowhere but with None."""
    first, *others = steps
    returns = [
        _gives_none(before, step)
        for before, step in pairwise((first, first, *others))
        if step.opname.startswith("RETURN_")
    ]
    return bool(returns) and all(returns)


def _gives_none(before: dis.Instruction, step: dis.Instruction) -> bool:
    if step.opname == "RETURN_VALUE":  # from Python 3.14 on: it gives what was loaded before, unless it is jumped to
        return before.opname == "LOAD_CONST" and before.argval is None and not step.is_jump_target
    return step.opname == "RETURN_CONST" and step.argval is None
