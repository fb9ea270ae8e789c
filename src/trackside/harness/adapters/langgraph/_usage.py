"""Listens to a graph's models, tools and sub-graphs: when each was called, tokens of each model call, and by whom."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.tools import ToolException
from langgraph.errors import GraphBubbleUp

from trackside.harness.adapters.langgraph._graph import UNNAMED
from trackside.harness.adapters.langgraph._listening import CallSite
from trackside.harness.calls import Call
from trackside.harness.context import RunContext
from trackside.harness.journal import LEAD_AGENT, reported

_MIDDLEWARE_NODE = re.compile(r"(.+)\.(?:before|after)_(?:agent|model)")


class UsageRecorder(BaseCallbackHandler):
    """Records the usage of one run, whatever becomes of it; called from the loop and from nodes' threads.

    Who is credited with a model call, first match:

    1. a tag of the call that says so: `middleware:NAME`, or `subagent:NAME` (credited to `NAME`);
    2. `middleware:NAME` for LangChain's middleware: the hook node `NAME.before_model` and its like, or the `lc_source` in
       the call's metadata, by which a middleware marks calls that it makes around a model or tool;
    3. `lead_agent`, if the call was made in the graph that is run, not in a graph inside it;
    4. the innermost graph around the call, by the agent name that it brings (`lc_agent_name`, from `create_agent`), else
       the name it was compiled with, else the agent's name around it, else the tool that runs it, else the path of nodes
       that leads to it.

    A tool and a sub-graph are called by whoever would be credited there. A model call that fails or is cancelled counts
    with the tokens that were reported before; one whose reader has left its stream has answered. An answer from
    LangChain's cache does not count as a call. A call with callbacks of its own counts, and is credited, like any
    other.
    """

    run_inline = True  # on the loop, before the model goes on: nothing is counted late, and no thread is needed

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._links: dict[UUID, _Link] = {}
        self._calls: dict[UUID, _Call] = {}

    def close(self) -> None:
        """Count, when the graph has stopped, what was reported of calls that never came to an end."""
        for run_id in list(self._calls):
            if (call := self._calls.pop(run_id, None)) is not None:
                self._record_part(call, call.reported)

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember where in the graph this is."""
        site = self._site(parent_run_id, metadata, tags)
        link = self._links[run_id] = _link(site, kwargs.get("name"), self._run.elapsed)
        self._note_graph_of(link)

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the place."""
        self._leave(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the place."""
        self._leave(run_id, error)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count the call."""
        name = str((serialized or {}).get("name") or kwargs.get("name") or "tool")
        site = self._site(parent_run_id, metadata, tags)
        link = self._links[run_id] = _link(site, name, self._run.elapsed, is_tool=True)
        link.call = self._run.begin_call("execute_tool", name, caller=self._caller(site))
        if self._run.cancelled:
            link.call.end(asyncio.CancelledError())  # it is one too many: the `StopGate` does not let it begin

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the place. If a tool turns what it raised into text (`handle_tool_error`), only its message tells."""
        failed = isinstance(output, ToolMessage) and output.status == "error"
        self._leave(run_id, ToolException() if failed else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the place."""
        self._leave(run_id, error)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember who calls which model."""
        if self._run.cancelled:
            return  # it is one too many: the `StopGate` does not let it begin
        caller = self._caller(self._site(parent_run_id, metadata, tags))
        model = _configured_model(serialized or {}, metadata or {})
        provider = (metadata or {}).get("ls_provider")
        told = self._run.begin_call("chat", model, caller=caller)
        if model != (metadata or {}).get("ls_model_name"):
            told.asked = None  # it is the name of a class
        self._calls[run_id] = _Call(told, model, provider)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember who calls which model."""
        self.on_chat_model_start(
            serialized, [], run_id=run_id, parent_run_id=parent_run_id, tags=tags, metadata=metadata
        )

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep what a stream reports on the way, in case it is cut off."""
        usage = getattr(getattr(chunk, "message", None), "usage_metadata", None)
        if usage and (call := self._calls.get(run_id)) is not None:
            call.reported = call.reported.plus(_Tokens.of(usage))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Count the call."""
        call = self._calls.pop(run_id, None)
        if call is None:
            return
        call.told.end()
        message = _message_of(response)
        call.model = _answering_model(message, response) or call.model
        usage = message.usage_metadata if message is not None else None
        if usage and usage.get("total_cost") == 0:  # how LangChain marks an answer from its cache
            self._run.record_answer()
            return
        self._record(call, _Tokens.of(usage or _usage_of_provider(response)))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Count the failure, and what the call reported before it; a stream whose reader has left it did not fail."""
        call = self._calls.pop(run_id, None)
        if call is None:
            return
        was_left = isinstance(error, GeneratorExit)
        call.told.end(None if was_left else error)
        response = kwargs.get("response")
        message = _message_of(response) if isinstance(response, LLMResult) else None
        call.model = _answering_model(message, response) or call.model
        usage = message.usage_metadata if message is not None else None
        tokens = _Tokens.of(usage) if usage else call.reported
        if was_left:
            self._record(call, tokens)
            return
        self._record_part(call, tokens)
        if not isinstance(error, asyncio.CancelledError):  # the run's end, not the model's
            self._run.record_model_failure(error)

    def _record_part(self, call: _Call, tokens: _Tokens) -> None:
        """Count a call that came to no end, if it is known to have used anything."""
        if tokens != _NOTHING:
            self._record(call, tokens, answered=False)

    def _record(self, call: _Call, tokens: _Tokens, *, answered: bool = True) -> None:
        self._run.record_usage(
            call.model,
            input_tokens=reported(tokens.input),
            output_tokens=reported(tokens.output),
            cache_read_tokens=reported(tokens.cache_read),
            cache_write_tokens=reported(tokens.cache_write),
            reasoning_tokens=reported(tokens.reasoning),
            answered=answered,
            call=call.told,
            provider=call.provider,
        )

    def _leave(self, run_id: UUID, error: BaseException | None = None) -> None:
        link = self._links.pop(run_id, None)
        if link is not None and link.call is not None:
            link.call.end(None if isinstance(error, GraphBubbleUp) else error)  # a question is no failure

    def _note_graph_of(self, node: _Link) -> None:
        """Note the call of the graph that a node is in, at its first node, unless it is the graph that is run."""
        graph = self._find(node.parent)
        if graph is None or graph.call is not None or graph.namespace == node.namespace:
            return
        if graph.namespace in _task_namespaces(node.namespace, node.path) or self._find(graph.parent) is None:
            return
        around = self._graph_around(graph.parent, _task_namespaces(graph.namespace, graph.path))
        caller = LEAD_AGENT if around is None else self._name_of(around)
        graph.call = self._run.begin_call("invoke_agent", self._name_of(graph), caller=caller, at=graph.at)

    def _site(self, parent: UUID | None, metadata: Mapping[str, Any] | None, tags: Sequence[str] | None) -> CallSite:
        site = CallSite(parent, metadata or {}, tags or ())
        if parent not in self._links:
            site = site.within_context()
        link = self._find(site.parent)
        return site if link is None else site.within(link.site)

    def _caller(self, site: CallSite) -> str:
        metadata = site.metadata
        for tag in reversed(site.tags):  # inherited ones come first
            if tag.startswith("middleware:"):
                return tag
            if tag.startswith("subagent:"):
                return tag.removeprefix("subagent:")
        if hook := _MIDDLEWARE_NODE.fullmatch(str(metadata.get("langgraph_node", ""))):
            return f"middleware:{hook[1]}"
        if source := metadata.get("lc_source"):
            return f"middleware:{source}"
        namespace, path = str(metadata.get("langgraph_checkpoint_ns", "")), metadata.get("langgraph_path", ())
        graph = self._graph_around(site.parent, _task_namespaces(namespace, path))
        return LEAD_AGENT if graph is None else self._name_of(graph)

    def _graph_around(self, parent: UUID | None, inside: frozenset[str]) -> _Link | None:
        """The innermost graph that a call was made in, `inside` these namespaces; None if that is the graph that is run."""
        link = self._find(parent)
        while link is not None and link.namespace in inside:
            link = self._find(link.parent)
        return link if link is not None and self._find(link.parent) is not None else None

    def _name_of(self, graph: _Link) -> str:
        above = self._find(graph.parent)
        if graph.agent and (above is None or graph.agent != above.agent):
            return graph.agent
        if graph.name and graph.name != UNNAMED:
            return graph.name
        root = graph
        while (link := self._find(root.parent)) is not None:
            root = link
        if graph.agent and graph.agent != root.agent:
            return graph.agent
        if above is not None and above.is_tool and above.name:
            return above.name
        return "/".join(_node_names(graph.namespace)) or LEAD_AGENT

    def _find(self, run_id: UUID | None) -> _Link | None:
        return None if run_id is None else self._links.get(run_id)


@dataclass(slots=True)
class _Link:
    """Something that runs: the root graph, a graph inside, a node, a tool. `site` says what runs it.

    `namespace` is LangGraph's name for the task it belongs to, as `researcher:ID|model:ID`; the root graph has none. It
    began `at` that second of the run; `call` is that of a tool or of a graph inside.
    """

    site: CallSite
    namespace: str
    path: Sequence[Any]
    name: str | None
    agent: str | None
    at: float
    is_tool: bool
    call: Call | None = None

    @property
    def parent(self) -> UUID | None:
        return self.site.parent


def _link(site: CallSite, name: Any, at: float, *, is_tool: bool = False) -> _Link:
    known = site.metadata
    namespace, path = known.get("langgraph_checkpoint_ns", ""), known.get("langgraph_path", ())
    return _Link(site, namespace, path, name, known.get("lc_agent_name"), at, is_tool)


@dataclass(frozen=True, slots=True)
class _Tokens:
    input: int = 0
    output: int = 0
    cache_read: int = 0
    reasoning: int = 0
    cache_write: int = 0

    @classmethod
    def of(cls, usage: Mapping[str, Any]) -> _Tokens:
        of_input = usage.get("input_token_details") or {}
        of_output = usage.get("output_token_details") or {}
        # If a provider says how long each part is kept, LangChain has 0 as the sum.
        written = sum(_count(of_input.get(f"ephemeral_{kept}_input_tokens")) for kept in ("5m", "1h"))
        return cls(
            _count(usage.get("input_tokens")),
            _count(usage.get("output_tokens")),
            _of_any_tier(of_input, "cache_read"),
            _of_any_tier(of_output, "reasoning"),
            max(_of_any_tier(of_input, "cache_creation"), written),
        )

    def plus(self, more: _Tokens) -> _Tokens:
        return _Tokens(
            self.input + more.input,
            self.output + more.output,
            self.cache_read + more.cache_read,
            self.reasoning + more.reasoning,
            self.cache_write + more.cache_write,
        )


_NOTHING = _Tokens()


@dataclass(slots=True)
class _Call:
    """A model call under way, which the run was told of. `reported` is what its stream has said so far."""

    told: Call
    model: str
    provider: str | None
    reported: _Tokens = field(default=_NOTHING)


def _count(tokens: Any) -> int:
    # Providers leave counts out, send null, or (in a corrected last chunk) a negative difference.
    return max(0, int(tokens)) if isinstance(tokens, int | float) else 0


def _of_any_tier(details: Mapping[str, Any], name: str) -> int:
    # LangChain puts OpenAI's service tier before the name, as `flex_cache_read`, unless it is the default one.
    return sum(_count(details.get(f"{tier}{name}")) for tier in ("", "flex_", "priority_"))


def _task_namespaces(namespace: str, path: Sequence[Any]) -> frozenset[str]:
    """The namespaces of the task that a call was made in: its own, and those of the tasks that called it as `@task`.

    A functional-API call runs in its caller's graph, but nests its namespace under the caller's; its path is
    `(PUSH, caller's path, index, True)`.
    """
    namespaces = {namespace}
    while len(path) == 4 and path[-1] is True:
        namespace = namespace.rpartition("|")[0]
        namespaces.add(namespace)
        path = path[1]
    return frozenset(namespaces)


def _node_names(namespace: str) -> list[str]:
    # LangGraph puts a bare number between, for the second and later graphs that one task runs.
    return [part.partition(":")[0] for part in namespace.split("|") if part and not part.isdigit()]


def _message_of(response: LLMResult) -> AIMessage | None:
    """The message of a response that tells its usage; with several choices each tells that of all: the first counts."""
    messages = [
        message
        for generations in response.generations
        for generation in generations
        if isinstance(message := getattr(generation, "message", None), AIMessage)
    ]
    return next((message for message in messages if message.usage_metadata), messages[0] if messages else None)


def _usage_of_provider(response: LLMResult) -> Mapping[str, Any]:
    """The usage that an older model class reports beside its messages."""
    usage = (response.llm_output or {}).get("token_usage") or {}
    return {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}


def _answering_model(message: AIMessage | None, response: Any) -> str | None:
    """The model that answered, as the provider calls it."""
    for known in (
        message.response_metadata if message is not None else {},
        getattr(response, "llm_output", None) or {},
    ):
        for key in ("model_name", "model", "model_id"):
            if isinstance(name := known.get(key), str) and name:
                return name
    return None


def _configured_model(serialized: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The model that was asked, as the code calls it, else its class."""
    if isinstance(name := metadata.get("ls_model_name"), str) and name:
        return name
    path = serialized.get("id") or ["unknown"]
    return str(serialized.get("name") or path[-1])
