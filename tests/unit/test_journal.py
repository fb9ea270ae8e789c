"""What a run used and said: every token counted once, from every thread, and texts kept short."""

import math
import threading
from typing import Any

import pytest

from trackside.harness.errors import InvalidSpecError
from trackside.harness.journal import EXCERPT_CHARS, Journal, excerpt


def test_new_journal_has_every_key_of_the_contract_at_zero() -> None:
    assert Journal().completion_data(1.5) == {
        "total_input_tokens": 0,
        "total_output_tokens": 0,
        "total_tokens": 0,
        "llm_call_count": 0,
        "tool_call_count": 0,
        "message_count": 0,
        "token_usage_by_model": {},
        "token_usage_by_caller": {},
        "first_human_message": None,
        "last_ai_message": None,
        "duration_seconds": 1.5,
    }


def test_tokens_are_summed_in_all_by_model_and_by_caller() -> None:
    journal = Journal()
    journal.record_usage("small", input_tokens=10, output_tokens=1)
    journal.record_usage("small", input_tokens=20, output_tokens=2, caller="researcher", cache_read_tokens=5)
    journal.record_usage("large", input_tokens=300, output_tokens=30, caller="researcher", reasoning_tokens=7)
    data = journal.completion_data(0)

    assert (data["total_input_tokens"], data["total_output_tokens"], data["total_tokens"]) == (330, 33, 363)
    assert data["llm_call_count"] == 3
    assert data["token_usage_by_model"] == {
        "small": {"input_tokens": 30, "output_tokens": 3, "total_tokens": 33, "cache_read_tokens": 5},
        "large": {"input_tokens": 300, "output_tokens": 30, "total_tokens": 330, "reasoning_tokens": 7},
    }
    assert data["token_usage_by_caller"] == {
        "lead_agent": {"input_tokens": 10, "output_tokens": 1, "total_tokens": 11},
        "researcher": {
            "input_tokens": 320,
            "output_tokens": 32,
            "total_tokens": 352,
            "cache_read_tokens": 5,
            "reasoning_tokens": 7,
        },
    }


def test_tokens_that_were_written_to_a_cache_show_where_there_were_any() -> None:
    journal = Journal()
    journal.record_usage("small", input_tokens=10, output_tokens=1, cache_write_tokens=8)
    journal.record_usage("small", input_tokens=10, output_tokens=1, cache_write_tokens=1)
    journal.record_usage("large", input_tokens=10, output_tokens=1)
    data = journal.completion_data(0)

    assert data["token_usage_by_model"]["small"]["cache_write_tokens"] == 9
    assert "cache_write_tokens" not in data["token_usage_by_model"]["large"]
    assert [call.get("cache_write_tokens") for call in data["calls"]] == [8, 1, None]


class Knowing:
    """A price list that is told what was written to a cache."""

    def cost_usd(self, model: str, *, cache_write_tokens: int = 0, **tokens: int) -> float:
        return 100.0 * cache_write_tokens + tokens["input_tokens"]


class Unknowing:
    """A price list that knows nothing of writes to caches."""

    def cost_usd(
        self, model: str, *, input_tokens: int, output_tokens: int, cache_read_tokens: int, reasoning_tokens: int
    ) -> float:
        return float(input_tokens)


class Billing:
    """A price list that is told who bills."""

    def cost_usd(self, model: str, *, provider: str = "nobody", **tokens: int) -> float:
        return {"groq": 1.0, "ollama": 0.0, "nobody": 9.0}[provider]


@pytest.mark.parametrize(
    ("prices", "costs"), [(Billing(), [1.0, 0.0, 9.0]), (Knowing(), [10.0] * 3), (Unknowing(), [10.0] * 3)]
)
def test_a_price_list_is_told_who_bills_if_it_asks_by_name(prices: Any, costs: list[float]) -> None:
    told = []
    for provider in ("groq", "ollama", None):
        journal = Journal(prices)
        journal.record_usage("small", input_tokens=10, output_tokens=1, provider=provider)
        told.append(journal.completion_data(0)["cost_usd"])
    assert told == costs


@pytest.mark.parametrize(("prices", "cost"), [(Knowing(), 810.0), (Unknowing(), 10.0)])
def test_a_price_list_is_told_what_was_written_to_a_cache_if_it_asks(prices: Any, cost: float) -> None:
    journal = Journal(prices)
    journal.record_usage("small", input_tokens=10, output_tokens=1, cache_write_tokens=8)
    assert journal.completion_data(0)["cost_usd"] == cost


def test_cost_is_absent_until_a_call_has_a_price_and_zero_is_a_price() -> None:
    journal = Journal()
    journal.record_usage("local", input_tokens=1, output_tokens=1)
    assert "cost_usd" not in journal.completion_data(0)

    journal.record_usage("local", input_tokens=1, output_tokens=1, cost_usd=0)
    assert journal.completion_data(0)["cost_usd"] == 0

    journal.record_usage("paid", input_tokens=1, output_tokens=1, cost_usd=0.25)
    journal.record_usage("paid", input_tokens=1, output_tokens=1, cost_usd=0.5)
    assert journal.completion_data(0)["cost_usd"] == 0.75


def test_cost_is_summed_by_model_and_by_caller_where_a_call_had_a_price() -> None:
    journal = Journal()
    journal.record_usage("local", input_tokens=1, output_tokens=1)
    journal.record_usage("paid", input_tokens=1, output_tokens=1, cost_usd=0.25)
    journal.record_usage("paid", input_tokens=1, output_tokens=1, cost_usd=0.5, caller="researcher")
    journal.record_usage("free", input_tokens=1, output_tokens=1, cost_usd=0, caller="researcher")
    data = journal.completion_data(0)

    def costs(by: str) -> dict[str, float | None]:
        return {name: usage.get("cost_usd") for name, usage in data[by].items()}

    assert costs("token_usage_by_model") == {"local": None, "paid": 0.75, "free": 0}
    assert costs("token_usage_by_caller") == {"lead_agent": 0.25, "researcher": 0.5}


def test_cost_of_many_calls_is_a_number_however_much_it_is() -> None:
    journal = Journal()
    for _ in range(5):
        journal.record_usage("m", input_tokens=1, output_tokens=1, cost_usd=1e308)
    data = journal.completion_data(0)
    costs = (
        data["cost_usd"],
        data["token_usage_by_model"]["m"]["cost_usd"],
        data["token_usage_by_caller"]["lead_agent"]["cost_usd"],
    )
    assert all(math.isfinite(cost) for cost in costs)


@pytest.mark.parametrize(
    "field", ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"]
)
@pytest.mark.parametrize("count", [-1, 1.5, "7", None, True, math.nan, 10**12 + 1, 10**30], ids=repr)
def test_count_that_is_no_whole_number_from_zero_up_is_refused_and_nothing_counted(field: str, count: Any) -> None:
    journal = Journal()
    counts: dict[str, Any] = {"input_tokens": 1, "output_tokens": 1, field: count}

    with pytest.raises(InvalidSpecError, match=rf"^{field} = .*token counts are whole numbers from 0 up to 1,000,0"):
        journal.record_usage("m", **counts)
    assert journal.completion_data(0) == Journal().completion_data(0)


def test_tokens_that_a_run_cannot_count_are_refused_and_what_was_counted_stays() -> None:
    journal = Journal()
    journal.record_usage("m", input_tokens=10**12 - 3, output_tokens=1)

    with pytest.raises(InvalidSpecError, match="tokens = 3 is not .*: a run counts at most 1,000,000,000,000 in all"):
        journal.record_usage("m", input_tokens=1, output_tokens=2)
    journal.record_usage("m", input_tokens=2, output_tokens=0)

    data = journal.completion_data(0)
    assert (data["total_input_tokens"], data["total_output_tokens"], data["llm_call_count"]) == (10**12 - 1, 1, 2)


@pytest.mark.parametrize("cost", [-0.01, math.nan, math.inf, -math.inf, 10**400, "1"], ids="{!r:.9}".format)
def test_cost_that_is_no_number_from_zero_up_is_refused_and_nothing_counted(cost: Any) -> None:
    journal = Journal()

    with pytest.raises(InvalidSpecError, match="a cost is a number from 0 up, in US dollars"):
        journal.record_usage("m", input_tokens=1, output_tokens=1, cost_usd=cost)
    assert journal.completion_data(0) == Journal().completion_data(0)


def test_names_that_json_cannot_hold_are_cleaned() -> None:
    journal = Journal()
    journal.record_usage("bad\0name", input_tokens=1, output_tokens=1, caller="\ud800")

    assert [*journal.completion_data(0)["token_usage_by_model"]] == ["bad\ufffdname"]
    assert [*journal.completion_data(0)["token_usage_by_caller"]] == ["\ufffd"]


def test_tool_calls_are_counted() -> None:
    journal = Journal()
    for _ in range(3):
        journal.record_tool_call("search")

    assert journal.completion_data(0)["tool_call_count"] == 3


def test_first_human_and_last_ai_message_are_kept() -> None:
    journal = Journal()
    for kind, content in [("human", "one"), ("ai", "two"), ("human", "three"), ("tool", "four"), ("ai", "five")]:
        journal.record_message({"type": kind, "content": content})
    journal.record_message({"type": "ai", "content": ""})  # as for a call of a tool
    data = journal.completion_data(0)

    assert (data["first_human_message"], data["last_ai_message"], data["message_count"]) == ("one", "five", 6)
    assert Journal().completion_data(0)["last_ai_message"] is None


def test_message_that_passes_twice_counts_once() -> None:
    journal = Journal()
    first = journal.record_message({"type": "ai", "content": "draft", "id": "m1"})
    journal.record_message(first | {"content": "done"})

    data = journal.completion_data(0)
    assert (data["message_count"], data["last_ai_message"]) == (1, "done")


def test_texts_are_cut_at_2000_characters() -> None:
    journal = Journal()
    journal.record_message({"type": "human", "content": "h" * 5_000})
    journal.record_message({"type": "ai", "content": [{"type": "text", "text": "a" * 1_500}] * 3})
    data = journal.completion_data(0)

    assert EXCERPT_CHARS == 2_000
    assert data["first_human_message"] == "h" * 2_000
    assert data["last_ai_message"] == "a" * 2_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hello", "hello"),
        (["a", {"type": "text", "text": "b"}, {"type": "image", "url": "u"}, "c"], "abc"),
        ([{"text": None}, {"text": 5}, None, 7, [], True], ""),
        ([], ""),
        (None, ""),
        (5, "5"),
        ({"a": 1}, "{'a': 1}"),
    ],
    ids=repr,
)
def test_excerpt_of_any_content_is_its_text(content: Any, text: str) -> None:
    assert excerpt(content) == text
    Journal().record_message({"type": "human", "content": content})
    Journal().record_message({"type": "ai", "content": content})


def test_totals_are_a_copy_that_later_calls_do_not_change() -> None:
    journal = Journal()
    journal.record_usage("m", input_tokens=1, output_tokens=1)
    data = journal.completion_data(0)
    journal.record_usage("m", input_tokens=1, output_tokens=1)

    assert data["token_usage_by_model"]["m"]["input_tokens"] == 1
    assert data["total_tokens"] == 2


def test_journal_may_be_written_to_from_many_threads_and_read_meanwhile() -> None:
    journal = Journal()
    seen: list[dict[str, Any]] = []

    def work(number: int) -> None:
        for i in range(500):
            journal.record_usage(f"m{number % 2}", input_tokens=2, output_tokens=1, caller=f"c{i % 3}", cost_usd=0.5)
            journal.record_tool_call("t")
            journal.record_message({"type": "ai", "content": "x"})
            if i % 100 == 0:
                seen.append(journal.completion_data(0))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.append(journal.completion_data(0))

    for data in seen:
        for by in ("token_usage_by_model", "token_usage_by_caller"):
            assert sum(usage["total_tokens"] for usage in data[by].values()) == data["total_tokens"]
        assert data["total_tokens"] == 3 * data["llm_call_count"]
        assert data["cost_usd"] == 0.5 * data["llm_call_count"]
    assert (seen[-1]["llm_call_count"], seen[-1]["tool_call_count"], seen[-1]["message_count"]) == (4_000,) * 3
