"""What a run asks for besides its input, as arguments of `agent.run`; or why it cannot be had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pydantic_ai import UsageLimits
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model

from trackside.harness.adapters.pydantic_ai._watch import EVENTS, MESSAGES, UPDATES
from trackside.harness.agents.asked import check_modes, check_no_graph_options, options_in
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError

STREAM_MODES = frozenset({"values", "custom", UPDATES, EVENTS, *MESSAGES})
"""What an agent can stream."""
_NOT_HERE = "that is for graphs; Pydantic AI has nothing like it"


def check_spec(run: RunContext) -> None:
    """Check that nothing is asked for that an agent of Pydantic AI does not have.

    Raises:
        InvalidSpecError: something is.
    """
    check_modes(run, STREAM_MODES, "an agent of Pydantic AI")
    if others := sorted(run.command.keys() - {"resume"}):
        raise InvalidSpecError(field="command", value=others, why="Pydantic AI takes `resume` alone")
    check_no_graph_options(run, _NOT_HERE)


def options_of(run: RunContext) -> dict[str, Any]:
    """The run's config as arguments of `agent.run`.

    Raises:
        InvalidSpecError: it has a key that is not known, or a value that does not fit.
    """
    options = options_in(run, _NOT_HERE)
    for name, value in options.items():
        if name not in _OPTIONS:
            why = f"Pydantic AI takes {', '.join(_OPTIONS)}"
            raise InvalidSpecError(field=f"config.{name}", value=value, why=why)
    return {name: _OPTIONS[name](f"config.{name}", value) for name, value in options.items() if value is not None}


def deps_of(agent: AbstractAgent[Any, Any], context: Any) -> Any:
    """The run's context as the agent's dependencies: an object becomes the data class or model that the agent wants.

    Raises:
        InvalidSpecError: it cannot be made one.
    """
    if not isinstance(context, Mapping):
        return context
    kind: Any = agent.deps_type  # whatever its author calls a type
    try:
        if (validate := getattr(kind, "model_validate", None)) is not None:
            return validate(context)
        return kind(**context) if hasattr(kind, "__dataclass_fields__") else context
    except (TypeError, ValueError) as exc:
        raise InvalidSpecError(field="context", value=context, why=f"it makes no {kind.__name__}: {exc}") from exc


def _model(field: str, value: Any) -> Any:
    if isinstance(value, str | Model):
        return value
    raise InvalidSpecError(field=field, value=value, why='it is a model or its name, as "openai:gpt-5-mini"')


def _object(field: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise InvalidSpecError(field=field, value=value, why="it is an object")


def _instructions(field: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    raise InvalidSpecError(field=field, value=value, why="it is a text")


def _retries(field: str, value: Any) -> Any:
    counts = value if isinstance(value, Mapping) else {"tools": value}
    if counts.keys() <= {"tools", "output"} and all(type(count) is int and count >= 0 for count in counts.values()):
        return value
    raise InvalidSpecError(field=field, value=value, why='it is a whole number, or {"tools": …, "output": …}')


def _usage_limits(field: str, value: Any) -> Any:
    if isinstance(value, UsageLimits):
        return value
    known = {known.name for known in dataclasses.fields(UsageLimits)}
    if not isinstance(value, Mapping) or not value.keys() <= known:
        raise InvalidSpecError(field=field, value=value, why=f"it is an object with {', '.join(sorted(known))}")
    for name, limit in value.items():
        if not (limit is None or isinstance(limit, int | float)):
            raise InvalidSpecError(field=f"{field}.{name}", value=limit, why="it is a number")
    limits = dict(value)
    if limits.get("cost_limit") is not None:
        limits["cost_limit"] = Decimal(str(limits["cost_limit"]))
    return UsageLimits(**limits)


_OPTIONS: Mapping[str, Callable[[str, Any], Any]] = {
    "instructions": _instructions,
    "metadata": _object,
    "model": _model,
    "model_settings": _object,
    "retries": _retries,
    "usage_limits": _usage_limits,
}
"""The keys of a run's config, and what turns each into an argument."""
OWNERS_OPTIONS = frozenset({"instructions", "model", "model_settings"})
"""Those that make an agent other than its owner has made it."""
