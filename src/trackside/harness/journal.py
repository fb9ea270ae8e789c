"""What a run used and said: tokens, calls, messages, cost; the `completion_data` of its terminal event."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from trackside.harness.budget import Used
from trackside.harness.calls import Call, CallKind, CallLog
from trackside.harness.errors import InvalidCallError, InvalidUsageError, PayloadError
from trackside.harness.foreign.objects import pairs_of
from trackside.harness.foreign.signatures import takes
from trackside.harness.ids import new_id
from trackside.harness.payload import MAX_CHARS, MORE, canonical, is_object, whole
from trackside.harness.ports import PriceList
from trackside.harness.types import JsonObject

logger = logging.getLogger("trackside.journal")

LEAD_AGENT = "lead_agent"
"""The caller that is credited with what a run's own agent does."""

EXCERPT_CHARS = 2_000
"""How much of the first human and the last AI message `completion_data` keeps."""

MOST_TOKENS: Final = 10**12
"""How many tokens a run can count: no run uses more, and the rows of runs and their sums hold that many."""

_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens", "cache_write_tokens")
_MOST_USD = sys.float_info.max  # beyond it there is `inf`, which JSON does not have

_WHAT_IT_IS = ("type", "role", "id")
_TYPE_OF_ROLE = {"user": "human", "assistant": "ai", "function": "tool", "developer": "system"}
ROLES: Final = frozenset({*_TYPE_OF_ROLE, *_TYPE_OF_ROLE.values()})
"""What a message can be, as its `type` or `role` says."""
_TYPE_OF_CLASS = {
    "HumanMessage": "human",
    "AIMessage": "ai",
    "SystemMessage": "system",
    "ToolMessage": "tool",
    "FunctionMessage": "function",
}
"""The kinds of LangChain's message classes."""


class Usage:
    """Tokens and cost of one model or one caller.

    `cache_read_tokens` and `cache_write_tokens` are part of the input, `reasoning_tokens` of the output; each appears only
    where there were any.
    `cost_usd` appears where a call had a price: unknown is not zero.
    """

    __slots__ = (
        "cache_read_tokens",
        "cache_write_tokens",
        "cost_usd",
        "input_tokens",
        "output_tokens",
        "reasoning_tokens",
    )

    def __init__(self) -> None:
        self.input_tokens = 0
        self.output_tokens = 0
        self.cache_read_tokens = 0
        self.reasoning_tokens = 0
        self.cache_write_tokens = 0
        self.cost_usd: float | None = None

    def add(
        self,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int,
        reasoning_tokens: int,
        cache_write_tokens: int,
        cost_usd: float | None,
    ) -> None:
        """Count one call."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cache_read_tokens += cache_read_tokens
        self.reasoning_tokens += reasoning_tokens
        self.cache_write_tokens += cache_write_tokens
        if cost_usd is not None:
            self.cost_usd = min((self.cost_usd or 0.0) + cost_usd, _MOST_USD)

    def as_json(self) -> JsonObject:
        """As `completion_data` shows it."""
        shown: JsonObject = {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }
        if self.cache_read_tokens:
            shown["cache_read_tokens"] = self.cache_read_tokens
        if self.cache_write_tokens:
            shown["cache_write_tokens"] = self.cache_write_tokens
        if self.reasoning_tokens:
            shown["reasoning_tokens"] = self.reasoning_tokens
        if self.cost_usd is not None:
            shown["cost_usd"] = self.cost_usd
        return shown


class Journal:
    """Counts what one run does, whatever becomes of it. May be written to from any thread.

    Args:
        prices: what calls cost that do not report their cost; None: they have no cost.
        on_use: called after each call of a model or tool, by whoever reports it.
        monotonic: the clock by which the run and its calls are measured, in seconds.
        names_models: whether the log may name models; not if a hook may take their names out.
    """

    def __init__(
        self,
        prices: PriceList | None = None,
        on_use: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        names_models: bool = True,
    ) -> None:
        self.title: str | None = None
        self.changed_title = False
        """Whether the title could not be kept as it was given."""
        self.changed_name = False
        """Whether a name of a model, tool or caller could not be kept as it was given."""
        self.unpriced: set[str] = set()
        """The models that were called and have no price."""
        self.names_models = names_models
        self._prices = prices
        self._on_use = on_use
        self._calls = CallLog(monotonic)
        self._answers = 0
        self._failed_calls = 0
        self._last_failure: BaseException | None = None
        self._lock = threading.Lock()
        self._total = Usage()
        self._models: dict[str, Usage] = {}
        self._callers: dict[str, Usage] = {}
        self._llm_calls = 0
        self._tool_calls = 0
        self._messages = 0
        self._message_ids: set[str] = set()
        self._first_human: str | None = None
        self._last_ai: str | None = None

    def start(self) -> None:
        """The run starts now: the seconds of its calls count from here."""
        self._calls.start()

    def close(self) -> None:
        """The run has ended: nobody is told of usage any more, nor kept alive for that."""
        self._on_use = None

    def elapsed(self) -> float:
        """Seconds since the run started; 0 if it never did."""
        return self._calls.elapsed()

    def set_title(self, title: str) -> None:
        """Note the thread's title."""
        self.title, self.changed_title = canonical(title)

    def _name(self, given: str) -> str:
        name: str
        name, changed = canonical(str(given))
        if changed:
            self.changed_name = True
        return name

    def begin_call(self, kind: CallKind, name: str, caller: str = LEAD_AGENT, *, at: float | None = None) -> Call:
        """Note that a call begins, or began `at` that second of the run; a tool call is counted now.

        Raises:
            InvalidCallError: (a `ValueError`) there is no such kind, or `at` is not a number of seconds.
        """
        call = self._calls.begin(kind, self._name(name), self._name(caller), at=at)
        if kind == "execute_tool":
            self._count_tool_call()
        return call

    def record_usage(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        caller: str = LEAD_AGENT,
        cost_usd: float | None = None,
        answered: bool = True,
        seconds: float | None = None,
        call: Call | None = None,
        provider: str | None = None,
    ) -> None:
        """Count one call of a model; with `answered=False`, what a call that failed after all has used.

        Raises:
            InvalidUsageError: (a `ValueError`) a number of tokens is not a whole number from 0 up, or brings the run's
                tokens above `MOST_TOKENS`; the cost is negative; or `answered` is neither True nor False.
            InvalidCallError: (a `ValueError`) `seconds` is not a number of seconds, or `call` is not a call of a run.
        """
        tokens = (input_tokens, output_tokens, cache_read_tokens, reasoning_tokens, cache_write_tokens)
        for field, count in zip(_COUNTS, tokens, strict=True):
            if type(count) is not int or not 0 <= count <= MOST_TOKENS:
                why = f"token counts are whole numbers from 0 up to {MOST_TOKENS:,}"
                raise InvalidUsageError(field=field, value=count, why=why)
        used = self._total
        if used.input_tokens + used.output_tokens + input_tokens + output_tokens > MOST_TOKENS:
            more = input_tokens + output_tokens
            raise InvalidUsageError(field="tokens", value=more, why=f"a run counts at most {MOST_TOKENS:,} in all")
        if cost_usd is not None and not _is_cost(cost_usd):
            raise InvalidUsageError(field="cost_usd", value=cost_usd, why="a cost is a number from 0 up, in US dollars")
        if type(answered) is not bool:
            raise InvalidUsageError(field="answered", value=answered, why="it is True, or False for a call that failed")
        if not isinstance(call, Call | None):
            raise InvalidCallError(field="call", value=call, why="it is what `run.call` gives")
        model = self._name(model)
        caller = self._name(caller if call is None else call.caller)
        if call is None:
            call = self._calls.add("chat", model, caller, seconds, answered=answered)
        call.used(model, *tokens)
        if cost_usd is None and self._prices is not None:
            cost_usd = self._price_of(model, None if provider is None else str(provider), *tokens)
        with self._lock:
            self._llm_calls += 1
            self._answers += answered
            if cost_usd is None:
                self.unpriced.add(model)
            for usage in (self._total, _of(self._models, model), _of(self._callers, caller)):
                usage.add(*tokens, cost_usd)
        if (on_use := self._on_use) is not None:
            on_use()

    def _price_of(
        self,
        model: str,
        provider: str | None,
        input_tokens: int,
        output_tokens: int,
        cached: int,
        reasoning: int,
        written: int,
    ) -> float | None:
        assert self._prices is not None
        try:
            asks: Callable[..., float | None] = self._prices.cost_usd
            more: dict[str, Any] = {}
            if written and takes(asks, "cache_write_tokens"):
                more["cache_write_tokens"] = written
            if provider is not None and self._asks_provider:
                more["provider"] = provider
            cost = asks(
                model,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cached,
                reasoning_tokens=reasoning,
                **more,
            )
        except Exception as exc:  # if a price list fails, the run lacks its cost, and nothing else
            if self.names_models:
                logger.exception("the price of a call of %s could not be found out", model)
            else:  # its message may quote the name
                kind, trace = type(exc).__qualname__, "".join(traceback.format_tb(exc.__traceback__)).rstrip()
                logger.error("the price of a call could not be found out; it raised %s at\n%s", kind, trace)  # noqa: TRY400
            return None
        if cost is not None and not _is_cost(cost):
            said = (model, repr(cost)) if self.names_models else ("a model", f"a {type(cost).__qualname__}")
            logger.error("the price list says that a call of %s costs %s, which is no cost", *said)
            return None
        return cost

    @cached_property
    def _asks_provider(self) -> bool:
        return self._prices is not None and takes(self._prices.cost_usd, "provider", among_others=False)

    def record_model_failure(self, error: BaseException) -> None:
        """Count a call of a model that gave no answer."""
        with self._lock:
            self._failed_calls += 1
            self._last_failure = error

    def record_answer(self) -> None:
        """Note that a model's answer was there without a call that counts."""
        with self._lock:
            self._answers += 1

    @property
    def lost_model(self) -> BaseException | None:
        """What the last call of a model failed with, if models were called and none ever answered."""
        return None if self._answers else self._last_failure

    def used(self) -> Used:
        """What was used so far."""
        with self._lock:
            total = self._total
            tokens = total.input_tokens + total.output_tokens
            return Used(tokens, total.cost_usd, self._llm_calls, self._tool_calls)

    def record_tool_call(self, name: str, *, caller: str = LEAD_AGENT, seconds: float | None = None) -> None:
        """Count one call of a tool that is over.

        Raises:
            InvalidCallError: (a `ValueError`) `seconds` is not a number of seconds.
        """
        self._calls.add("execute_tool", self._name(name), self._name(caller), seconds)
        self._count_tool_call()

    def _count_tool_call(self) -> None:
        with self._lock:
            self._tool_calls += 1
        if (on_use := self._on_use) is not None:
            on_use()

    def record_message(self, message: Mapping[str, Any]) -> JsonObject:
        """Count a message, once for each id; returns it as plain JSON with an `id` and a `type` (from its `role`).

        Raises:
            PayloadError: (a `ValueError`) it is not a mapping, or has neither type nor role.
        """
        plain = plain_message(message)
        with self._lock:
            if plain["id"] not in self._message_ids:
                self._message_ids.add(plain["id"])
                self._messages += 1
            if plain["type"] == "human":
                if self._first_human is None:
                    self._first_human = excerpt(plain.get("content"))
            elif plain["type"] == "ai" and (text := excerpt(plain.get("content"))):
                self._last_ai = text
        return plain

    def completion_data(self, duration_seconds: float, *, open_as: str = "unfinished") -> JsonObject:
        """The totals so far. `cost_usd` is absent where no call had a price: unknown is not zero.

        Args:
            duration_seconds: how long the run took.
            open_as: the `error_type` of calls that have not come back.
        """
        with self._lock:
            total = self._total
            data: JsonObject = {
                "total_input_tokens": total.input_tokens,
                "total_output_tokens": total.output_tokens,
                "total_tokens": total.input_tokens + total.output_tokens,
                "llm_call_count": self._llm_calls,
                "tool_call_count": self._tool_calls,
                "message_count": self._messages,
                "token_usage_by_model": {name: usage.as_json() for name, usage in self._models.items()},
                "token_usage_by_caller": {name: usage.as_json() for name, usage in self._callers.items()},
                "first_human_message": self._first_human,
                "last_ai_message": self._last_ai,
                "duration_seconds": round(duration_seconds, 6),
            }
            if total.cost_usd is not None:
                data["cost_usd"] = total.cost_usd
            if self._failed_calls:
                data["llm_error_count"] = self._failed_calls
        return data | self._calls.as_json(duration_seconds, open_as)


def plain_message(message: Any, *, max_chars: int = MAX_CHARS) -> JsonObject:
    """A message as plain JSON with `type` and `id`, from a mapping or from a framework's message object.

    `max_chars` of its text are kept; if left out, as many as in an event.

    Raises:
        PayloadError: (a `ValueError`) it is not a message.
    """
    given = {"type": "human", "content": message} if isinstance(message, str) else message
    plain, changed = canonical(given, max_chars=max_chars, as_fields=is_object(given))
    if isinstance(plain, dict) and MORE in plain:  # what it is may have come after a long text
        entire = whole(given)
        first = {name: entire[name] for name in _WHAT_IT_IS if name in entire}
        plain, _ = canonical(first | entire, max_chars=max_chars)
    if not isinstance(plain, dict):
        raise PayloadError(path="message", why=f"a message is an object with type and content, not {message!r:.80}")
    kind = plain.get("type") or plain.pop("role", None)
    if not isinstance(kind, str):
        raise PayloadError(path="message", why='it has neither "type" nor "role"')
    plain["type"] = _TYPE_OF_ROLE.get(kind, kind)
    plain["id"] = message_id(plain) or new_id()
    if changed:
        plain["sanitized"] = True
    return plain


def message_id(message: Any) -> str | None:
    """The id that somebody has given a message; None: nobody has."""
    (given,) = _fields(message, "id")
    if type(given) is int:
        return str(given)
    return given if isinstance(given, str) and given else None


def answer_message(answer: Any) -> JsonObject:
    """A human's answer as a message: a text as it stands, anything else as JSON."""
    plain, changed = canonical(answer)
    message = plain_message(plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False))
    return {**message, "sanitized": True} if changed else message


def human_messages(value: Any) -> list[JsonObject]:
    """The human messages in a run's input: a text, one message, a list of them, or `{"messages": …}`.

    Of several with one id, the last counts, in the place of the first, as graphs keep them.
    """
    items = listed_messages(value["messages"] if isinstance(value, Mapping) and "messages" in value else value)
    if isinstance(value, list | tuple):  # a text or a list in a mere list may be anything
        items = [item for item in items if not isinstance(item, str | list)]
    found = [plain_message(message) for message in map(as_message, items) if _is_human(message)]
    return [*{message["id"]: message for message in found}.values()]


def listed_messages(given: Any) -> Sequence[Any]:
    """What somebody has given as messages, a list of them or one, as a list. The pair `("human", "text")` is one only
    as a tuple: the list that JSON makes of it is two texts, for LangGraph as well.
    """
    is_list = isinstance(given, list) or (isinstance(given, tuple) and as_message(given) is given)
    return given if is_list else [given]


def as_message(item: Any) -> Any:
    """One of a list of messages in the form that all know, if it is in one that only LangChain has.

    Those are a pair, as `("human", "text")`, in JSON a list, and what LangChain's objects become there: `{"lc": 1, …}`.
    """
    if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str) and item[0] in ROLES:
        return {"type": item[0], "content": item[1]}
    match item:
        case {"lc": int(1), "type": str("constructor"), "id": [*_, str() as name], "kwargs": {**fields}} if (
            kind := _TYPE_OF_CLASS.get(name.removesuffix("Chunk"))
        ):
            return {"type": kind, **fields}
        case _:
            return item


def _is_human(item: Any) -> bool:
    if isinstance(item, str):
        return True
    if not is_object(item):
        return False
    kind, role, content = _fields(item, "type", "role", "content")
    if not isinstance(kind, str | None):  # a column of a table, say, whose truth value raises
        return False
    return _names_a_human(kind or role) and content is not None


def _names_a_human(kind: Any) -> bool:
    return isinstance(kind, str) and _TYPE_OF_ROLE.get(kind, kind) == "human"


def _fields(item: Any, *names: str) -> list[Any]:
    """These fields of a message, which is a mapping, a row of a database or a framework's object."""
    if not isinstance(item, Mapping) and (pairs := pairs_of(item)) is not None:
        item = dict(pairs)
    if isinstance(item, Mapping):
        return [item.get(name) for name in names]
    return [getattr(item, name, None) for name in names]


def excerpt(content: Any) -> str:
    """The text of a message's content, blocks joined, cut at `EXCERPT_CHARS` characters."""
    if isinstance(content, str):
        return content[:EXCERPT_CHARS]
    if isinstance(content, list):
        texts = (block.get("text") if isinstance(block, Mapping) else block for block in content)
        return "".join(text for text in texts if isinstance(text, str))[:EXCERPT_CHARS]
    return "" if content is None else str(content)[:EXCERPT_CHARS]


def reported(tokens: int | None) -> int:
    """A count of tokens as a framework reports it; 0 for one that makes no sense, which must not fail the run."""
    return tokens if tokens and 0 < tokens <= MOST_TOKENS else 0


def _is_cost(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_USD


def _of(usages: dict[str, Usage], name: str) -> Usage:
    usage = usages.get(name)
    if usage is None:
        usage = usages[name] = Usage()
    return usage
