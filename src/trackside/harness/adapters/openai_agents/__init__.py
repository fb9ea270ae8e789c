"""Runs agents of the OpenAI Agents SDK, as they are.

`_agent` is the adapter; `_input` makes the conversation's items of what was asked for, `_config` the SDK's options,
`_stream` reads what the SDK streams, `_usage` listens to its models and tools, `_approvals` asks a human about tool calls,
`_ending` sees the SDK's tasks to their end and says what went wrong, `_exits` gets a `SystemExit` of a tool past them.
"""

from trackside.harness.adapters.openai_agents._agent import OpenAIAgent, adapt

__all__ = ["OpenAIAgent", "adapt"]
