"""A run's context and what is configured for it; clients of LangGraph's server give only one of the two.

On that server a graph always has a context: what is configured is also its context, and the other way round, and
without either the schema's defaults apply. What a schema takes is read off it, and no instance is made: making one may
look at the environment of the process that executes the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, is_typeddict

from trackside.harness.agents.asked import configured
from trackside.harness.foreign.signatures import signature_of


def completed(
    config: Mapping[str, Any] | None, context: Any, schema: Any
) -> tuple[Mapping[str, Any] | None, Any | None]:
    """A run's config and context, completed if the client gave at most one; if it gave both, neither becomes the other.

    What the schema does not know is not part of the context.
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
    """The part of `given` that a context's schema takes; None if it needs more, or with no schema and nothing given."""
    takes = _Taken.by(schema)
    if takes is None:
        return dict(given) or None
    found = _known(given, takes)
    return found if all(names & found.keys() for names in takes.required) else None


def _known(given: Mapping[str, Any], takes: _Taken) -> dict[str, Any]:
    return {name: value for name, value in given.items() if takes.any or name in takes.names}


def is_of(context: Any, configurable: Mapping[str, Any]) -> bool:
    """Whether a context says nothing but what is configured."""
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
        """What a schema takes; None if LangGraph makes no context of it."""
        if is_typeddict(schema):
            return cls(schema.__required_keys__ | schema.__optional_keys__)  # nobody checks which of them are there
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
        """A model may know a field by several names; if one is not plain text, nothing is withheld from the model."""
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
