"""What model calls cost, against figures worked out by hand from the providers' list prices."""

import gzip
import json
import os
import sys
from collections.abc import Iterator
from decimal import localcontext
from pathlib import Path
from subprocess import run

import pytest

from trackside import RunContext, run_agent
from trackside.app.pricing import GenaiPrices, ModelPrice

TRAJECTORIES = Path(__file__).parents[3] / "shared" / "data" / "trajectories" / "trajectories.jsonl.gz"


def cost(
    model: str,
    tokens_in: int = 0,
    tokens_out: int = 0,
    *,
    cached: int = 0,
    written: int = 0,
    reasoning: int = 0,
    provider: str | None = None,
    **own: ModelPrice,
) -> float | None:
    return GenaiPrices(own).cost_usd(
        model,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        provider=provider,
    )


@pytest.mark.parametrize(
    ("model", "tokens_in", "tokens_out", "cached", "usd"),
    [
        ("gpt-4.1", 1_000_000, 0, 0, 2.0),
        ("gpt-4.1", 12_000, 500, 10_000, 0.002 * 2 + 0.01 * 0.5 + 0.0005 * 8),
        ("azure/gpt-4o-2024-11-20", 8_000, 1_000, 0, 0.008 * 2.5 + 0.001 * 10),
        ("claude-sonnet-4-5", 5_000, 300, 4_000, 0.001 * 3 + 0.004 * 0.3 + 0.0003 * 15),
        ("openai:gpt-5", 1_000, 2_000, 0, 0.001 * 1.25 + 0.002 * 10),
        ("models/gemini-2.5-pro", 1_000, 1_000, 0, 0.001 * 1.25 + 0.001 * 10),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 1_000, 100, 0, 0.001 * 3.3 + 0.0001 * 16.5),  # 10 % regional
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 1_000, 100, 0, 0.001 * 3 + 0.0001 * 15),
    ],
)
def test_a_call_costs_what_the_list_price_says(
    model: str, tokens_in: int, tokens_out: int, cached: int, usd: float
) -> None:
    assert cost(model, tokens_in, tokens_out, cached=cached) == pytest.approx(usd, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("anthropic:claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("openai/gpt-4o", "gpt-4o"),
        ("litellm/openai/gpt-4o", "gpt-4o"),
        ("any-llm/openai/gpt-5-mini", "gpt-5-mini"),
        ("any-llm/groq/llama-3.3-70b-versatile", "groq:llama-3.3-70b-versatile"),
        ("azure_openai:gpt-4o", "azure/gpt-4o"),
        ("google-gla:gemini-2.5-flash", "gemini-2.5-flash"),
        ("vertex_ai/gemini-2.5-flash", "gemini-2.5-flash"),
        ("xai:grok-4", "x-ai/grok-4"),
        ("bedrock:eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
    ],
)
def test_a_model_is_known_by_the_names_that_people_give_it(name: str, plain: str) -> None:
    assert cost(name, 1_000, 1_000) == cost(plain, 1_000, 1_000) is not None


def test_the_provider_that_a_name_says_is_the_one_who_bills() -> None:
    assert cost("groq:llama-3.3-70b-versatile", 1_000_000) == pytest.approx(0.59)
    assert cost("together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo", 1_000_000) == pytest.approx(0.88)
    assert cost("groq/claude-sonnet-4-5", 1_000_000) is None
    assert cost("groq/gemini-2.0-flash", 1_000_000) is None


@pytest.mark.parametrize(
    ("provider", "model", "usd"),
    [
        ("groq", "llama-3.3-70b-versatile", 0.59),
        ("groq", "openai/gpt-oss-120b", 0.15),  # the name says who made it
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", 0.88),
        ("cerebras", "llama-3.3-70b", 0.85),
        ("ollama", "deepseek-r1", None),
        ("Ollama", "gpt-4.1", None),
    ],
)
def test_the_provider_that_was_called_is_the_one_who_bills(provider: str, model: str, usd: float | None) -> None:
    alone = cost(model, 1_000_000)
    assert cost(model, 1_000_000, provider=provider) == pytest.approx(usd) != alone


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "mistral-large-latest"),  # as with `ChatOpenAI(base_url="https://api.mistral.ai/v1")`
        ("openai", "anthropic/claude-sonnet-4-5"),
        ("anthropic", "kimi-k2"),
        ("openai", "gpt-5"),
        ("azure_openai", "gpt-4o"),
        ("amazon_bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("somebody-new", "gpt-4.1"),
        ("", "gpt-4.1"),
    ],
)
def test_a_provider_that_does_not_list_the_model_or_is_not_listed_leaves_it_to_the_name(
    provider: str, model: str
) -> None:
    assert cost(model, 1_000, 1_000, provider=provider) == cost(model, 1_000, 1_000) is not None


def test_a_price_of_ones_own_goes_by_the_models_name_whoever_was_called() -> None:
    own = ModelPrice(input_per_million=1.0, output_per_million=1.0)
    assert cost("mine", 1_000_000, provider="ollama", mine=own) == 1.0


@pytest.mark.parametrize(
    "model",
    [
        *("gpt-99", "my-model", "", "test", "a/b/c:d", "gemma-3-27b-it", "ft:gpt-4o-mini:acme::1"),
        *("ollama/deepseek-r1", "deepseek-r1:8b", "llama3.2:3b", "gpt-oss:latest", "hosted_vllm/gemini-2.0-flash"),
    ],
)
def test_a_model_that_nobody_lists_has_no_price_which_is_not_zero(model: str) -> None:
    assert cost(model, 1_000, 1_000) is None


@pytest.mark.parametrize("front", ["models/", "gateway:", "openai/", "a"])
def test_a_model_whose_name_never_ends_has_no_price(front: str) -> None:
    assert cost(front * 20_000 + "gpt-4.1", 1_000, 1_000) is None
    assert cost("gpt-4.1", 1_000, 1_000, provider=front * 20_000) is None
    assert cost("models/gateway/litellm/gpt-4.1", 1_000_000) == 2.0


def test_a_model_that_is_called_free_costs_nothing() -> None:
    assert cost("openrouter/google/gemma-3-27b-it:free", 1_000, 1_000) == 0.0


def test_reasoning_is_part_of_the_output_and_not_paid_twice() -> None:
    assert cost("openai:gpt-5", 0, 2_000, reasoning=1_500) == cost("openai:gpt-5", 0, 2_000)
    # One of the few models with a price of its own for reasoning.
    assert cost("perplexity/sonar-deep-research", 0, 2_000, reasoning=1_500) == pytest.approx(0.0005 * 8 + 0.0015 * 3)


def test_a_program_that_rounds_its_own_decimals_rounds_no_price() -> None:
    usd = cost("gpt-4.1", 12_345, 77)

    with localcontext(prec=2):
        assert cost("gpt-4.1", 12_345, 77) == usd == pytest.approx(0.025306)


def test_what_is_written_to_a_cache_costs_what_the_provider_takes_for_that() -> None:
    assert cost("claude-sonnet-4-5", 30_500, 800, written=30_000) == pytest.approx(0.0015 + 0.03 * 3.75 + 0.012)
    assert cost("claude-sonnet-4-5", 5_000, 0, cached=4_000, written=500) == pytest.approx(0.0015 + 0.0012 + 0.001875)
    assert cost("gpt-4.1", 1_000, 0, written=500) == cost("gpt-4.1", 1_000, 0)


def test_numbers_that_contradict_each_other_have_no_price() -> None:
    assert cost("gpt-4.1", 10, 10, cached=50) is None
    assert cost("claude-sonnet-4-5", 10, 10, written=50) is None


def test_a_price_of_ones_own_stands_in_front_of_the_list() -> None:
    own = ModelPrice(input_per_million=1, output_per_million=2, cache_read_per_million=0.5)

    assert cost("mine", 1_000_000, 500_000, cached=400_000, mine=own) == pytest.approx(0.6 + 0.2 + 1.0)
    assert GenaiPrices({"gpt-4.1": own}).cost_usd(
        "gpt-4.1", input_tokens=10**6, output_tokens=0, cache_read_tokens=0, reasoning_tokens=0
    ) == pytest.approx(1.0)
    assert cost("free", 1_000, 1_000, free=ModelPrice(input_per_million=0, output_per_million=0)) == 0.0
    without = ModelPrice(input_per_million=4, output_per_million=0)
    assert cost("mine", 1_000, 0, cached=500, written=500, mine=without) == pytest.approx(0.004)
    dearer = ModelPrice(input_per_million=4, output_per_million=0, cache_write_per_million=5)
    assert cost("mine", 1_000, 0, written=500, mine=dearer) == pytest.approx(0.002 + 0.0025)


def test_the_list_is_loaded_when_a_price_is_asked_for_and_not_for_ones_own() -> None:
    code = """
import sys
from trackside.app.pricing import GenaiPrices, ModelPrice
tokens = {"input_tokens": 1, "output_tokens": 1, "cache_read_tokens": 0, "reasoning_tokens": 0}
prices = GenaiPrices({"mine": ModelPrice(input_per_million=1, output_per_million=1)})
prices.cost_usd("mine", **tokens)
assert "genai_prices" not in sys.modules
prices.load()
assert "genai_prices.data" in sys.modules
"""
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


async def test_a_run_costs_what_its_calls_do_and_says_so_only_if_one_has_a_price() -> None:
    async def agent(input: object, run: RunContext) -> None:
        for model in ("gpt-4.1", "gpt-4.1", "mystery"):
            run.record_usage(model, input_tokens=1_000, output_tokens=100)

    result = await run_agent(agent, "hello", prices=GenaiPrices())

    data = result.completion_data
    assert data["cost_usd"] == pytest.approx(2 * (0.001 * 2 + 0.0001 * 8))
    assert "cost_usd" not in data["token_usage_by_model"]["mystery"]


def recorded_calls(model: str) -> Iterator[tuple[int, int, float]]:
    with gzip.open(TRAJECTORIES, "rt", encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["messages"]:
                if message.get("model") == model and "usage" in message:
                    usage = message["usage"]
                    yield usage["input_tokens"], usage["output_tokens"], message["cost"]


@pytest.mark.skipif(not TRAJECTORIES.exists(), reason="the recorded conversations are not on this machine")
def test_recorded_calls_of_sonnet_cost_what_was_recorded() -> None:
    calls = list(recorded_calls("claude-sonnet-4-5"))

    assert len(calls) > 50
    for tokens_in, tokens_out, usd in calls:
        assert cost("claude-sonnet-4-5", tokens_in, tokens_out) == pytest.approx(usd, abs=1e-9)
