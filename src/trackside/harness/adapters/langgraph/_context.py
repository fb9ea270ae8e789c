"""A run's context, and what is configured for it, of which clients of LangGraph's server say only one.

There a graph always has a context: what is configured is its context, too, and the other way round, and without either it is
what the schema's defaults say. What a schema takes is read off it, and nothing is made of it: it may look at the environment
of the process that executes the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, is_typeddict

from trackside.harness.asked import configured
from trackside.harness.signatures import signature_of


def completed(
    config: Mapping[str, Any] | None, context: Any, schema: Any
) -> tuple[Mapping[str, Any] | None, Any | None]:
    """A run's config and its context, where a client has said one of them or none; neither becomes the other if he has both.

    What the schema does not know is no part of the context.
    """
    configurable = (config or {}).get("configurable") or {}
    if not isinstance(configurable, Mapping) or not isinstance(context, Mapping | None):
        return config, context
    own = configured(configurable)
    if not context:
        found = fitting(own, schema)
        return config, context if found is None else found
    if (takes := _Taken.by(schema)) is not None:
        context = _known(context, takes)
    shared = {} if own else configured(context)
    return ({**(config or {}), "configurable": {**configurable, **shared}} if shared else config), context


def fitting(given: Mapping[str, Any], schema: Any) -> dict[str, Any] | None:
    """What of it the schema of a context takes; None if that needs more, or there is neither a schema nor anything."""
    takes = _Taken.by(schema)
    if takes is None:
        return dict(given) or None
    found = _known(given, takes)
    return found if all(names & found.keys() for names in takes.required) else None


def _known(given: Mapping[str, Any], takes: _Taken) -> dict[str, Any]:
    return {name: value for name, value in given.items() if takes.any or name in takes.names}


def is_of(context: Any, configurable: Mapping[str, Any]) -> bool:
    """Whether a context says nothing else than what is configured."""
    return isinstance(context, Mapping) and all(
        name in configurable and configurable[name] == value for name, value in context.items()
    )


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a schema takes: these names, or `any`. Of each set in `required` it needs one."""

    names: frozenset[str]
    required: Sequence[frozenset[str]] = ()
    any: bool = False

    @classmethod
    def by(cls, schema: Any) -> _Taken | None:
        """None of what LangGraph makes no context of."""
        if is_typeddict(schema):
            return cls(schema.__required_keys__ | schema.__optional_keys__)  # which nobody checks
        if isinstance(schema, type) and hasattr(schema, "model_fields"):  # pydantic's
            return cls._by_model(schema)
        if not isinstance(schema, type) or not is_dataclass(schema):
            return None
        parameters = signature_of(schema).parameters.values()
        named = [one for one in parameters if one.kind in {one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}]
        return cls(
            frozenset(one.name for one in named),
            [frozenset({one.name}) for one in named if one.default is one.empty],
            any(one.kind is one.VAR_KEYWORD for one in parameters),
        )

    @classmethod
    def _by_model(cls, schema: Any) -> _Taken:
        """A model may know a field by several names; where one is no plain text, nothing is kept from the model."""
        by_name = schema.model_config.get("populate_by_name") or schema.model_config.get("validate_by_name")
        names: dict[str, frozenset[str]] = {}
        is_plain = True
        for name, field in schema.model_fields.items():
            alias = field.validation_alias
            is_plain = is_plain and isinstance(alias, str | None)
            said = {alias} if isinstance(alias, str) else set()
            names[name] = frozenset(said | {name} if by_name or not said else said)
        required = [names[name] for name, field in schema.model_fields.items() if field.is_required()]
        takes_any = not is_plain or schema.model_config.get("extra") == "allow"
        return cls(frozenset().union(*names.values()), required if is_plain else (), takes_any)
