"""What a function that makes graphs takes: nothing, the config, the runtime of LangGraph's server, or both."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, get_args, get_type_hints

from trackside.harness.adapters.langgraph._items import LentItems
from trackside.harness.adapters.langgraph._users import user_of
from trackside.harness.errors import InvalidSpecError
from trackside.harness.foreign.signatures import inner_of, signature_of
from trackside.harness.items import ItemStore

type Access = Literal["threads.create_run", "threads.update", "threads.read", "assistants.read"]
"""What a graph is made for, as LangGraph's runtime says it."""

_CONFIG = re.compile(r"\bRunnableConfig\b")
_RUNTIME = re.compile(r"\b(ServerRuntime|_ExecutionRuntime|_ReadRuntime)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a function that makes graphs. `context` is what a run brings for the nodes."""

    access: Access
    config: Mapping[str, Any]
    user: Any = None
    items: ItemStore | None = None
    context: Any = None


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parameters of a function that makes graphs, by what they take; `are_annotated` says that one has LangGraph's type.

    `context_type` is that of the runtime's context, if its annotation says so: `ServerRuntime[MyContext]`.
    """

    config: str | None = None
    runtime: str | None = None
    context_type: Any = None
    are_annotated: bool = False

    @classmethod
    def taken_by(cls, function: Callable[..., Any], *, loosely: bool) -> Arguments | None:
        """What a function takes; None if it wants anything else. With `loosely`, a parameter of any name is the config
        if there is no other parameter, or none other than a runtime that is known by its type.
        """
        try:
            parameters = [*signature_of(function).parameters.values()]
        except (TypeError, ValueError):
            return None
        found: dict[str, str] = {}
        are_annotated = False
        for parameter in parameters:
            kind, by_type = _kind_of(parameter)
            others = [_kind_of(other) for other in parameters if other is not parameter]
            if kind is None and loosely and parameter.kind in _PLAIN and all(one == _RUNTIME_BY_TYPE for one in others):
                kind = "config"
            if kind is not None and kind not in found and parameter.kind in _NAMED:
                found[kind] = parameter.name
                are_annotated = are_annotated or by_type
            elif parameter.default is parameter.empty and parameter.kind in _PLAIN:
                return None
        runtime = found.get("runtime")
        context_type = None if runtime is None else _context_type(function, runtime)
        return cls(found.get("config"), runtime, context_type, are_annotated)

    def of(self, call: Call) -> dict[str, Any]:
        """The arguments of one call."""
        arguments: dict[str, Any] = {}
        if self.config is not None:
            arguments[self.config] = dict(call.config)
        if self.runtime is not None:
            arguments[self.runtime] = _runtime(call, self.context_type)
        return arguments


_NAMED = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})
_PLAIN = frozenset({*_NAMED, inspect.Parameter.POSITIONAL_ONLY})
_RUNTIME_BY_TYPE = ("runtime", True)


def _kind_of(parameter: inspect.Parameter) -> tuple[str | None, bool]:
    """What a parameter takes, and whether its type says so; its name decides if the type says neither."""
    said = annotation_text(parameter.annotation)
    if _CONFIG.search(said):
        return "config", True
    if _RUNTIME.search(said):
        return "runtime", True
    return (parameter.name if parameter.name in {"config", "runtime"} else None), False


def annotation_text(annotation: Any) -> str:
    """An annotation as text, even if it is a type."""
    if annotation is inspect.Parameter.empty or annotation is None:
        return ""
    return annotation if isinstance(annotation, str) else repr(annotation)


def _context_type(function: Callable[..., Any], parameter: str) -> Any:
    try:
        annotation = get_type_hints(inner_of(function)).get(parameter)
    except Exception:  # noqa: BLE001  # names that only a type checker can resolve
        return None
    return next(iter(get_args(annotation)), None)


def _runtime(call: Call, context_type: Any) -> Any:
    """The runtime of LangGraph's server."""
    from langgraph_sdk import runtime as langgraph  # only for those who ask for it

    store = None if call.items is None else LentItems(call.items)
    user = None if call.user is None else user_of(call.user)
    common: dict[str, Any] = {"access_context": call.access, "user": user, "store": store}
    if call.access == "threads.create_run":
        return langgraph._ExecutionRuntime(**common, context=_context(call.context, context_type))  # noqa: SLF001
    return langgraph._ReadRuntime(**common)  # noqa: SLF001


def _context(context: Any, kind: Any) -> Any:
    """A run's context as the type that the runtime's annotation names."""
    if not isinstance(context, Mapping) or not isinstance(kind, type):
        return context
    try:
        if is_dataclass(kind):
            return kind(**context)
        if hasattr(kind, "model_validate"):
            return kind.model_validate(context)
    except (TypeError, ValueError) as exc:
        raise InvalidSpecError(field="context", value=context, why=f"it is no {kind.__name__}: {exc}") from exc
    return context
