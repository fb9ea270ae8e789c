"""Turns a run's config into the SDK's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents import Agent, Handoff, Model, ModelSettings, RunConfig, RunErrorHandlers, RunHooks
from agents.lifecycle import RunHooksBase
from agents.run_config import DEFAULT_MAX_TURNS
from agents.tracing import get_trace_provider

from trackside.harness.agents.asked import options_in
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.threads import in_own_thread

NOT_HERE = "it is for LangGraph graphs; an agent of the OpenAI Agents SDK has no such thing"
"""Why something that a run asks for is refused."""
_SERVER_KEEPS = "the thread keeps the conversation, and OpenAI's server cannot keep it too; leave this out"
_REFUSED = {
    "session": "the thread keeps the conversation; give the run a `thread_id` instead",
    "session_input_callback": "the thread keeps the conversation, not a session; `call_model_input_filter` sees each input",
    "session_settings": "the thread keeps the conversation, not a session",
    "conversation_id": _SERVER_KEEPS,
    "previous_response_id": _SERVER_KEEPS,
    "auto_previous_response_id": _SERVER_KEEPS,
    "context": "it is an argument of its own: `context`",
}
_OF_RUNNER = frozenset({"max_turns", "hooks", "error_handlers"})
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(RunConfig)}
_OF_CONFIG = _DEFAULTS.keys() - _REFUSED.keys()
_HANDLED = RunErrorHandlers.__annotations__.keys()
OWNERS_CONFIG = (_OF_RUNNER | _OF_CONFIG) - {"group_id", "max_turns", "trace_metadata", "workflow_name"}
"""What of a config makes an agent other than its owner has made it, or sends what it does somewhere."""


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What the SDK's runner is told besides the input. `max_turns` is None without a limit."""

    run_config: RunConfig
    max_turns: int | None
    hooks: RunHooks[Any] | None
    error_handlers: RunErrorHandlers[Any] | None
    names_max_turns: bool
    """Whether the run says `max_turns` itself, so that it also counts for a run that goes on."""

    @classmethod
    def of(cls, run: RunContext) -> RunnerOptions:
        """What a run's config says: `max_turns`, `hooks`, `error_handlers`, and the fields of the SDK's `RunConfig`.

        Nothing is traced, and so nothing sent anywhere, unless the config says `"tracing_disabled": False`.

        Raises:
            InvalidSpecError: something in it is unknown, or not what the SDK takes, or not for a run here.
        """
        config = options_in(run, NOT_HERE)
        for key, value in config.items():
            _check(key, value)
        given = {key: value for key, value in config.items() if key in _OF_CONFIG}
        defaults: dict[str, Any] = {"tracing_disabled": True, "workflow_name": run.agent, "group_id": run.thread_id}
        try:
            run_config = RunConfig(**{**defaults, **given})
        except (TypeError, ValueError) as exc:
            raise InvalidSpecError(field="config", value=given, why=f"the SDK does not take it: {exc}") from exc
        return cls(
            run_config,
            config.get("max_turns", DEFAULT_MAX_TURNS),
            config.get("hooks"),
            config.get("error_handlers"),
            "max_turns" in config,
        )


def asking_for_usage(run_config: RunConfig, agent: Agent[Any]) -> RunConfig:
    """A config that has models say in a stream what they have used; the same one if settings say otherwise.

    The SDK streams each run here, and of itself asks only OpenAI's servers for usage. A config overrules agents, so one
    agent whose server is not to be asked, or is asked in its own words, speaks for all that may get to work.
    """
    settings = run_config.model_settings or ModelSettings()
    if settings.include_usage or any(map(_says_otherwise, (settings, *(one.model_settings for one in _within(agent))))):
        return run_config
    return dataclasses.replace(run_config, model_settings=dataclasses.replace(settings, include_usage=True))


def _says_otherwise(settings: ModelSettings) -> bool:
    """Whether a server is not to be asked, or is asked in the settings' own words: the SDK refuses both at once."""
    return settings.include_usage is False or "stream_options" in (settings.extra_args or {})


def _within(agent: Agent[Any]) -> list[Agent[Any]]:
    """An agent, and those that it may hand over to or call as tools, as far as the SDK says which."""
    found = {id(agent): agent}
    left = [agent]
    while left:
        one = left.pop()
        targets = [_target_of(handoff) if isinstance(handoff, Handoff) else handoff for handoff in one.handoffs]
        for each in (*targets, *(getattr(tool, "_agent_instance", None) for tool in one.tools)):
            if isinstance(each, Agent) and id(each) not in found:
                found[id(each)] = each
                left.append(each)
    return [*found.values()]


def _target_of(handoff: Handoff[Any, Any]) -> Any:
    reference = getattr(handoff, "_agent_ref", None)
    return None if reference is None else reference()


_tracing_ready = False


async def prepare_tracing() -> None:
    """Have the SDK make its tracer, as it does on first use, traced or not: that reads certificates from the disk."""
    global _tracing_ready  # noqa: PLW0603  # once for the process, as the SDK has it
    if not _tracing_ready:
        await in_own_thread(get_trace_provider)
        _tracing_ready = True


def _check(key: str, value: Any) -> None:
    """Refuse what the SDK does not know, and what it would trip over in the middle of a run."""
    if key in _REFUSED:
        why = _REFUSED[key]
    elif key not in _OF_RUNNER | _OF_CONFIG:
        why = f"an agent of the OpenAI Agents SDK knows {', '.join(sorted(_OF_RUNNER | _OF_CONFIG))}"
    elif (expected := _wrong(key, value)) is not None:
        why = f"it is {expected}"
    else:
        return
    raise InvalidSpecError(field=f"config.{key}", value=value, why=why)


def _wrong(key: str, value: Any) -> str | None:
    """What a value should be and is not; None if it is right, or the SDK checks it itself."""
    match key:
        case "max_turns":
            right, expected = (
                value is None or (type(value) is int and value > 0),
                "a whole number from 1 up, or None: no limit",
            )
        case "hooks":
            right, expected = value is None or isinstance(value, RunHooksBase), "an instance of the SDK's `RunHooks`"
        case "error_handlers":
            right, expected = _are_handlers(value), f"a mapping of {', '.join(sorted(_HANDLED))} to functions"
        case "model":
            right, expected = (
                value is None or isinstance(value, str | Model),
                "the name of a model, or a `Model` of the SDK's",
            )
        case _ if type(default := _DEFAULTS[key]) in {bool, str}:
            right, expected = type(value) is type(default), "true or false" if isinstance(default, bool) else "a text"
        case _:
            return None
    return None if right else expected


def _are_handlers(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping) and value.keys() <= _HANDLED and all(map(callable, value.values()))
    )
