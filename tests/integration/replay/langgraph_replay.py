"""Conversations with LangGraph graphs: a chat model, LangChain's tools, a `ToolNode`."""

from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import InjectedToolCallId, StructuredTool, ToolException
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import create_model
from tests.integration.replay.recorded import Item, Script, ToolFailure, Trajectory, call_item

SOLO_INPUT: Any = {"messages": []}
CONFIG: dict[str, Any] = {}
EXTRA_CALLS = (0, 0)


def agent(trajectory: Trajectory) -> Any:
    return _builder(trajectory).compile()


def delegating(trajectory: Trajectory, to: str) -> Any:
    """A graph whose only node is another graph."""
    below = _builder(trajectory).compile(name=to)
    return StateGraph(MessagesState).add_node("below", below).add_edge(START, "below").compile()


def _builder(trajectory: Trajectory) -> StateGraph[Any, Any, Any, Any]:
    script = Script(trajectory)
    model = _RecordedModel(script=script)

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def is_over(state: MessagesState) -> str:
        return END if script.is_over(_items_in(state["messages"])) else "model"

    def goes_on(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    builder = StateGraph(MessagesState).add_node("model", ask)
    builder.add_node("tools", ToolNode([_tool(script, name, names) for name, names in trajectory.tools.items()]))
    builder.add_conditional_edges(START, is_over, ["model", END])
    builder.add_conditional_edges("model", goes_on, ["tools", END])
    return builder.add_edge("tools", "model")


class _RecordedModel(BaseChatModel):
    """Gives the recorded answers."""

    script: Any

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.script.answer(_items_in(messages))
        used = answer["usage"]
        message = AIMessage(
            answer["content"] or "",
            tool_calls=[
                {"id": call["id"], "name": call["name"], "args": call["arguments"]}
                for call in answer.get("tool_calls", ())
            ],
            usage_metadata={**used, "total_tokens": used["input_tokens"] + used["output_tokens"]},
            response_metadata={"model_name": answer["model"]},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)


def _items_in(messages: Sequence[BaseMessage]) -> list[Item]:
    return [item for message in messages for item in _items_of(message)]


def _items_of(message: BaseMessage) -> list[Item]:
    if isinstance(message, ToolMessage):
        return [("result", message.tool_call_id, str(message.content))]
    role = "assistant" if isinstance(message, AIMessage) else "user"
    said: list[Item] = [(role, str(message.content))] if message.content else []
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    return [*said, *(call_item(str(call["id"]), call["name"], call["args"]) for call in calls)]


def _tool(script: Script, name: str, parameters: set[str]) -> StructuredTool:
    async def call(tool_call_id: str, **arguments: Any) -> str:
        try:
            return script.result(tool_call_id, arguments)
        except ToolFailure as exc:
            raise ToolException(str(exc)) from exc

    fields: dict[str, Any] = dict.fromkeys(sorted(parameters), (Any, None))
    schema = create_model(name, tool_call_id=(Annotated[str, InjectedToolCallId], ...), **fields)
    return StructuredTool(name=name, description=name, args_schema=schema, coroutine=call, handle_tool_error=True)
