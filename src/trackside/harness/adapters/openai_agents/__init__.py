"""Runs agents of the OpenAI Agents SDK, as they are.

`_agent` is the adapter; `_input` makes the conversation's items from the request, `_config` the SDK's options,
`_stream` reads what the SDK streams, `_usage` listens to its models and tools, `_approvals` asks a human about tool
calls, `_ending` sees the SDK's tasks to their end and says what went wrong, and `_exits` gets a tool's `SystemExit`
past them.
"""

from trackside.harness.adapters.openai_agents._agent import OpenAIAgent, adapt

__all__ = ["OpenAIAgent", "adapt"]
