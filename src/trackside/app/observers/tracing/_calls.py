"""Spans of the calls that a run lists: each with the times it had, below the span of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from trackside.app.observers.tracing import _conventions as names
from trackside.app.observers.tracing._reading import counts_of, is_mapping, seconds_of, text_of
from trackside.harness.calls import BROKEN_OFF

__all__ = ["tell_calls"]

_KINDS: Final = {
    names.CHAT: SpanKind.CLIENT,
    names.EXECUTE_TOOL: SpanKind.INTERNAL,
    names.INVOKE_AGENT: SpanKind.INTERNAL,
}
_NAMED_BY: Final = {
    names.CHAT: names.REQUEST_MODEL,
    names.EXECUTE_TOOL: names.TOOL_NAME,
    names.INVOKE_AGENT: names.AGENT_NAME,
}
_COUNTS: Final = {
    "input_tokens": names.INPUT_TOKENS,
    "output_tokens": names.OUTPUT_TOKENS,
    "cache_read_tokens": names.CACHE_READ_TOKENS,
    "cache_write_tokens": names.CACHE_WRITE_TOKENS,
    "reasoning_tokens": names.REASONING_TOKENS,
}
_AT_ONCE: Final = 50  # spans; they take some milliseconds, after which others get a turn
_NANOSECONDS: Final = 1_000_000_000
_ROUNDED: Final = 2_000
"""Nanoseconds by which equal ends may differ: the starts and durations of calls are whole microseconds."""


async def tell_calls(tracer: Tracer, run: Span, calls: Any, began: int, ended: int) -> None:
    """Make a span of each call of a run.

    Args:
        tracer: makes the spans.
        run: the run's span.
        calls: what its terminal event lists.
        began: when the run's span begins, in nanoseconds since 1970; calls stay within it.
        ended: when the run's span ends.
    """
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return
    tree = _Tree(run)
    for number, call in enumerate(calls, 1):
        if is_mapping(call) and call.get("kind") in _KINDS:
            at, seconds = seconds_of(call, "at"), seconds_of(call, "seconds")
            start = min(began + round(at * _NANOSECONDS), ended)
            end = min(start + round(seconds * _NANOSECONDS), ended)
            _tell_call(tracer, tree, call, start, end)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)


def _tell_call(tracer: Tracer, tree: _Tree, call: Mapping[str, Any], start: int, end: int) -> None:
    kind: str = call["kind"]
    name, caller, error_type = text_of(call, "name"), text_of(call, "caller") or "", text_of(call, "error_type")
    failed = error_type is not None and error_type not in BROKEN_OFF
    attributes: dict[str, AttributeValue] = {names.OPERATION_NAME: kind}
    if name is not None and kind == names.CHAT and (asked := text_of(call, "request_model")) is not None:
        attributes[names.RESPONSE_MODEL], name = name, asked
    if name is not None:
        attributes[_NAMED_BY[kind]] = name
    if caller:
        attributes[names.CALLER] = caller
    attributes |= counts_of(call, _COUNTS)
    if error_type is not None:
        attributes[names.ERROR_TYPE if failed else names.CALL_BROKEN_OFF] = error_type
    span = tracer.start_span(
        f"{kind} {name}" if name else kind,
        tree.above(kind, caller, start, end),
        _KINDS[kind],
        attributes,
        start_time=start,
    )
    if failed:
        span.set_status(Status(StatusCode.ERROR, error_type))
    if kind != names.CHAT:  # nothing belongs below a chat
        tree.add(kind, name or "", _Placed(span, caller, start, end))
    span.end(end)


class _Placed(NamedTuple):
    span: Span
    caller: str
    start: int
    end: int

    def contains(self, start: int, end: int) -> bool:
        return self.start - _ROUNDED <= start and end <= self.end + _ROUNDED


class _Tree:
    """Who made which call, as far as names and times tell: a call names its caller, but not which of the caller's
    runs made it.
    """

    def __init__(self, run: Span) -> None:
        self._run = set_span_in_context(run, Context())
        self._agents: dict[str, list[_Placed]] = {}
        self._tools: list[_Placed] = []

    def above(self, kind: str, caller: str, start: int, end: int) -> Context:
        """The context of the span below which a call belongs.

        That is the agent with the caller's name that was called last and was working then. An agent that was called
        while one tool of its caller ran belongs to that tool; if there were several, nobody knows which.
        """
        if kind == names.INVOKE_AGENT:
            around = [tool for tool in self._tools if tool.caller == caller and tool.contains(start, end)]
            if len(around) == 1:
                return set_span_in_context(around[0].span, Context())
        for agent in reversed(self._agents.get(caller, ())):
            if agent.contains(start, start):
                return set_span_in_context(agent.span, Context())
        return self._run

    def add(self, kind: str, name: str, placed: _Placed) -> None:
        """Remember a call that others may belong below."""
        if kind == names.INVOKE_AGENT:
            self._agents.setdefault(name, []).append(placed)
        elif kind == names.EXECUTE_TOOL:
            self._tools.append(placed)
