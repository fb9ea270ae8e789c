"""How much a run may use before it is stopped."""

from __future__ import annotations

from typing import NamedTuple, Self

from trackside.harness.types import AgentLimits, RunSpec

_ROUNDING = 1 + 1e-9  # ten calls of 0.1 USD cost 1 USD, whatever floats make of it


class Used(NamedTuple):
    """What a run has used so far. `cost_usd` is None where no call had a price."""

    tokens: int
    cost_usd: float | None
    llm_calls: int
    tool_calls: int


class Budget(NamedTuple):
    """The most that a run may use; None: no limit. Runs that it starts have budgets of their own."""

    max_tokens: int | None = None
    max_cost_usd: float | None = None
    max_llm_calls: int | None = None
    max_tool_calls: int | None = None

    @classmethod
    def of(cls, spec: RunSpec, limits: AgentLimits) -> Self | None:
        """What a run may use by its spec, else by its agent's limits; None if nothing limits it."""
        budget = cls(
            limits.max_tokens if spec.max_tokens is None else spec.max_tokens,
            limits.max_cost_usd if spec.max_cost_usd is None else spec.max_cost_usd,
            limits.max_llm_calls if spec.max_llm_calls is None else spec.max_llm_calls,
            limits.max_tool_calls if spec.max_tool_calls is None else spec.max_tool_calls,
        )
        return None if budget == _UNLIMITED else budget

    def excess(self, used: Used) -> str | None:
        """What was exceeded, as a sentence; None if nothing was."""
        if self.max_tokens is not None and used.tokens > self.max_tokens:
            return f"the run used {used.tokens} tokens, and max_tokens is {self.max_tokens}"
        if self.max_cost_usd is not None and (used.cost_usd or 0.0) > self.max_cost_usd * _ROUNDING:
            return f"the run cost {used.cost_usd:.6g} USD, and max_cost_usd is {self.max_cost_usd:g}"
        if self.max_llm_calls is not None and used.llm_calls > self.max_llm_calls:
            return f"the run made {used.llm_calls} calls of models, and max_llm_calls is {self.max_llm_calls}"
        if self.max_tool_calls is not None and used.tool_calls > self.max_tool_calls:
            return f"the run made {used.tool_calls} calls of tools, and max_tool_calls is {self.max_tool_calls}"
        return None


_UNLIMITED = Budget()
