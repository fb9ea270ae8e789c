"""What the commands that run an agent share: their options, and how they show a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trackside.app.cli.arguments import ArgumentError, read_dollars, read_metadata, read_seconds
from trackside.app.cli.places import Place
from trackside.app.cli.views.jsonlines import JsonView
from trackside.app.cli.views.timeline import Timeline
from trackside.app.settings import Settings
from trackside.harness import RunSpec

type View = Timeline | JsonView

_SHOWN_MODES = ("messages", "custom")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options that the commands that run an agent share, as they were typed."""

    place: Place
    timeout: str | None
    max_tokens: int | None = None
    max_cost: str | None = None
    max_llm_calls: int | None = None
    max_tool_calls: int | None = None
    metadata: Sequence[str]
    modes: Sequence[str]
    json: bool

    def settings(self) -> Settings:
        """The settings, with the flags on top."""
        return self.place.settings()

    def check_modes(self) -> None:
        """Refuse a stream that would not be shown.

        Raises:
            ArgumentError: it would not be shown.
        """
        if self.json and self.modes:
            raise ArgumentError(name="--stream", why="--json prints events alone; leave one of the two out")

    def spec(self, agent: str, **more: Any) -> RunSpec:
        """The run to start.

        Raises:
            ArgumentError: an option has a value that does not fit.
        """
        self.check_modes()
        return RunSpec(
            agent,
            metadata=read_metadata(self.metadata) or None,
            timeout=None if self.timeout is None else read_seconds(self.timeout, "--timeout"),
            max_tokens=self.max_tokens,
            max_cost_usd=None if self.max_cost is None else read_dollars(self.max_cost, "--max-cost"),
            max_llm_calls=self.max_llm_calls,
            max_tool_calls=self.max_tool_calls,
            stream_mode=tuple(dict.fromkeys((*_SHOWN_MODES, *map(str, self.modes)))),
            **more,
        )
