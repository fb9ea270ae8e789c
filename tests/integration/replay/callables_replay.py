"""Conversations with plain functions, which tell their run themselves what they use."""

from typing import Any

from tests.integration.replay.recorded import Item, Message, Script, ToolFailure, Trajectory, items_of

from trackside import RunContext

SOLO_INPUT: Any = None
CONFIG: dict[str, Any] = {}
EXTRA_CALLS = (0, 0)
"""How many extra model and tool calls delegating takes."""


def agent(trajectory: Trajectory) -> Any:
    return _Function(Script(trajectory), caller="lead_agent")


def delegating(trajectory: Trajectory, to: str) -> Any:
    return _Function(Script(trajectory), caller=to)


class _Function:
    """Keeps the conversation in its thread, in the form of OpenAI's chat completions."""

    def __init__(self, script: Script, *, caller: str) -> None:
        self._script = script
        self._caller = caller

    async def __call__(self, input: list[Message] | None, run: RunContext) -> dict[str, Any]:
        before = run.values.get("messages", [])
        conversation = [*before, *(input or [])]
        while not self._script.is_over(_items_in(conversation)) and self._answer(conversation, run):
            pass
        return {"messages": conversation}

    def _answer(self, conversation: list[Message], run: RunContext) -> bool:
        """Have the model answer and run its tool calls; return whether it wants to see results."""
        answer = self._script.answer(_items_in(conversation))
        run.record_usage(answer["model"], **answer["usage"], caller=self._caller)
        calls = answer.get("tool_calls", [])
        conversation.append({"role": "assistant", "content": answer["content"], "tool_calls": calls})
        for call in calls:
            run.record_tool_call(call["name"])
            result = {"role": "tool", "tool_call_id": call["id"], "content": self._result(call)}
            conversation.append(result)
        return bool(calls)

    def _result(self, call: dict[str, Any]) -> str:
        try:
            return self._script.result(call["id"], call["arguments"])
        except ToolFailure as exc:
            return str(exc)


def _items_in(conversation: list[Message]) -> list[Item]:
    return [item for message in conversation for item in items_of(message)]
