"""Runs Pydantic AI agents, as they are: `Agent` and every other `AbstractAgent`.

`_agent` is the adapter; `_input` makes a prompt of a run's input, `_options` makes arguments of the rest, `_messages`
turns the framework's messages into plain ones and back, `_questions` pauses for deferred tools, `_watch` sees what a
run's models and tools do, `_models` counts each request, `_delegates` covers agents that tools call, and `_threads`
sees threads to their end.
"""

from trackside.harness.adapters.pydantic_ai._agent import PydanticAIAgent, adapt
from trackside.harness.adapters.pydantic_ai._errors import AgentPauseError, ThreadHistoryError

__all__ = ["AgentPauseError", "PydanticAIAgent", "ThreadHistoryError", "adapt"]
