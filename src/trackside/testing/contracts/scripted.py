"""The agents that `AgentContract` runs: each of one framework, each doing one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

INPUT_TOKENS, OUTPUT_TOKENS = 10, 5
"""What each call of a scripted model reports."""


class ScriptedAgents(Protocol):
    """Makes agents of one framework, with a model of the framework's own that needs no network.

    Each call of a model reports `INPUT_TOKENS` and `OUTPUT_TOKENS` under the name `model`. For what a framework cannot
    do, set None instead of a method; the tests of it are skipped.
    """

    model: str

    def says(self, text: str) -> Any:
        """Calls the model once, which answers `text`; streams it if the model streams."""
        ...

    def remembers(self) -> Any:
        """Calls the model once; answers how many human messages the thread has had, including this run's: `"2"`."""
        ...

    def calls_tool(self, name: str, times: int = 1) -> Any:
        """Calls the model, the tool `name`, the model, and so on, `times` tools one after another; answers `"done"`."""
        ...

    def fails(self, error: BaseException) -> Any:
        """Calls the model once; then the agent's own code (a tool, a node) raises `error`, which nobody handles."""
        ...

    def loses_model(self, error: Exception, *, swallows: bool) -> Any:
        """Every call of the model raises `error`; with `swallows`, the agent or framework still makes an answer of it."""
        ...

    def waits(self, began: Callable[[], None]) -> Any:
        """Calls the model once, calls `began`, and waits for ever in the agent's own code, until it is cancelled."""
        ...

    def asks(self, question: str) -> Any:
        """Pauses with one question; once that is answered (or approved), answers `"answered"`. None: cannot pause."""
        ...

    def asks_several(self, questions: Sequence[str]) -> Any:
        """Pauses with several questions at once; once all are answered, answers `"answered"`."""
        ...

    def delegates(self, to: str) -> Any:
        """Calls the model once, has an agent named `to` call the model once, and answers."""
        ...

    def never_ends(self) -> Any:
        """Calls the model and a tool in turn, until the framework's own limit of steps stops it."""
        ...
