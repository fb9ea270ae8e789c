"""Agents that are LangGraph graphs, with LangChain's fake chat models; they all keep their threads in one saver."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send, interrupt

from trackside.testing.contracts.scripted import INPUT_TOKENS, OUTPUT_TOKENS

MODEL = "small"


class LangGraphScripts:
    """Graphs with one node that asks a model, and other nodes that do the rest."""

    model = MODEL

    def __init__(self) -> None:
        self._saver = InMemorySaver()

    def says(self, text: str) -> Any:
        return self._graph(model=asks_model(answers(text)))

    def remembers(self) -> Any:
        async def count(state: MessagesState) -> dict[str, Any]:
            heard = sum(isinstance(message, HumanMessage) for message in state["messages"])
            return {"messages": [await answers(str(heard)).ainvoke(state["messages"])]}

        return self._graph(model=count)

    def calls_tool(self, name: str, times: int = 1) -> Any:
        return self._looping(StructuredTool.from_function(coroutine=nothing, name=name), times)

    def never_ends(self) -> Any:
        return self._looping(StructuredTool.from_function(coroutine=nothing, name="look"), 1_000).with_config(
            recursion_limit=9
        )

    def fails(self, error: BaseException) -> Any:
        async def fail(state: MessagesState) -> dict[str, Any]:
            raise error

        return self._graph(model=asks_model(answers("well")), fail=fail)

    def loses_model(self, error: Exception, *, swallows: bool) -> Any:
        ask = asks_model(Lost(messages=iter(()), error=error))

        async def sorry(state: MessagesState) -> dict[str, Any]:
            try:
                return await ask(state)
            except type(error) as exc:
                return {"messages": [AIMessage(f"sorry: {exc}")]}

        return self._graph(model=sorry if swallows else ask)

    def waits(self, began: Callable[[], None]) -> Any:
        async def wait(state: MessagesState) -> dict[str, Any]:
            began()
            await asyncio.Event().wait()
            return {}

        return self._graph(model=asks_model(answers("well")), wait=wait)

    def asks(self, question: str) -> Any:
        async def ask(state: MessagesState) -> dict[str, Any]:
            interrupt(question)
            return {}

        return self._graph(ask=ask, model=asks_model(answers("answered")))

    def asks_several(self, questions: Sequence[str]) -> Any:
        async def ask(question: str) -> dict[str, Any]:
            interrupt(question)
            return {}

        builder = StateGraph(MessagesState).add_node("ask", ask)
        builder.add_node("model", asks_model(answers("answered"))).add_edge("ask", "model")
        builder.add_conditional_edges(START, lambda state: [Send("ask", question) for question in questions], ["ask"])
        return builder.compile(checkpointer=self._saver)

    def delegates(self, to: str) -> Any:
        below = StateGraph(MessagesState).add_node("model", asks_model(answers("it is done")))
        helper = below.add_edge(START, "model").compile(name=to)
        return self._graph(model=asks_model(answers("I ask")), helper=helper)

    def _graph(self, **nodes: Any) -> Any:
        """A graph of these nodes, one after another."""
        builder = StateGraph(MessagesState)
        builder.add_sequence(list(nodes.items()))
        builder.add_edge(START, next(iter(nodes)))
        return builder.compile(checkpointer=self._saver)

    def _looping(self, tool: BaseTool, times: int) -> Any:
        """Model and tool in turn, this many times, then the model once more."""

        async def ask(state: MessagesState) -> dict[str, Any]:
            called = sum(message.type == "tool" for message in state["messages"])
            if called == times:
                return {"messages": [await answers("done").ainvoke(state["messages"])]}
            call = {"name": tool.name, "args": {}, "id": f"call-{called}"}
            return {"messages": [await answers("", calls=[call]).ainvoke(state["messages"])]}

        def goes_on(state: MessagesState) -> str:
            return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

        builder = StateGraph(MessagesState).add_node("model", ask).add_node("tools", ToolNode([tool]))
        builder.add_edge(START, "model").add_conditional_edges("model", goes_on).add_edge("tools", "model")
        return builder.compile(checkpointer=self._saver)


class Lost(GenericFakeChatModel):
    """A model that cannot be reached."""

    error: Exception

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise self.error

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise self.error


class Answering(GenericFakeChatModel):
    """A model that answers on the event loop, always with the same answer."""

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop, None, **kwargs)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Word by word; the last chunk says what the answer used, as providers' chunks do."""
        answer = cast("AIMessage", self._generate(messages, stop, None, **kwargs).generations[0].message)
        for word in re.split(r"(?<= )", str(answer.content)):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        told = {"usage_metadata": answer.usage_metadata, "response_metadata": answer.response_metadata}
        yield ChatGenerationChunk(message=AIMessageChunk("", tool_calls=answer.tool_calls, **told))


def answers(text: str, *, calls: Sequence[Any] = ()) -> Answering:
    used = {
        "input_tokens": INPUT_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }

    def endless() -> Iterator[AIMessage]:
        while True:  # each is a message of its own: two with one id would be one message
            yield AIMessage(text, tool_calls=[*calls], usage_metadata=used, response_metadata={"model_name": MODEL})

    return Answering(messages=endless())


def asks_model(model: GenericFakeChatModel) -> Any:
    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return ask


async def nothing() -> str:
    """See nothing."""
    return "nothing"
