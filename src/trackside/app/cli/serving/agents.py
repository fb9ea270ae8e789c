"""Which agents a server or worker has: those of the settings, or only those that were typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from trackside.app.cli.arguments import ArgumentError
from trackside.app.settings import Settings
from trackside.app.wiring.agents import AgentReference, load_agent
from trackside.harness.errors import TracksideError


class NoAgentsError(TracksideError, LookupError):
    """there is no agent to serve: {why}."""


_NAME_SOME: Final = (
    "name one after the command, as path/file.py:name, or some under [agents] in trackside.toml, or have a "
    "langgraph.json here"
)


def with_agents(settings: Settings, typed: Sequence[str]) -> Settings:
    """The settings, with only those agents that were typed, if any were.

    Raises:
        AgentReferenceError, ArgumentError: an agent does not exist, or two have the same name.
        NoAgentsError: there is no agent.
    """
    if typed:
        settings = replace(settings, agents=_named(typed, settings))
    if not settings.agents:
        raise NoAgentsError(why=settings.project.no_graphs or _NAME_SOME)
    return settings


def _named(typed: Sequence[str], settings: Settings) -> dict[str, str]:
    """The references that were typed, by the names of their agents."""
    named: dict[str, str] = {}
    for text in typed:
        reference = AgentReference.parse(text, settings.agents)
        if not reference.attribute:
            load_agent(reference)  # which says what there is to choose from
        if text in settings.agents:
            name, target = text, settings.agents[text]
        else:
            name, target = reference.attribute.rpartition(".")[2], text
        if name in named:
            why = (
                f"{named[name]} and {target} would both be called {name!r}; name them in trackside.toml under [agents]"
            )
            raise ArgumentError(name="AGENT", why=why)
        named[name] = target
    return named
