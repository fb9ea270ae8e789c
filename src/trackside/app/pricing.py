"""What model calls cost: the list prices in the package `genai-prices`, and prices of your own.

Nothing is ever fetched: the prices are those of the installed version of the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

_MOST_NAMES = 1_024  # of models that are remembered; names come from agents, which may make them up
_LONGEST_NAME = 512  # characters; enough for any model that anybody lists, with all possible prefixes
_MILLION = 1_000_000
_ARITHMETIC = Context(prec=28)  # whatever precision the program around it has set

_ROUTES = frozenset({"models", "litellm", "litellm_proxy", "any-llm", "gateway"})
"""Prefixes that say how a model is reached, and not who bills for it."""
_LOCAL = frozenset({"ollama", "ollama_chat", "vllm", "hosted_vllm", "lmstudio", "lm_studio", "llamacpp", "local"})
"""Prefixes of models that run on somebody's own machine, whose cost nobody lists."""
_BILLERS = {"azure_openai": "azure", "azure_ai": "azure"}
"""Prefixes that the price list takes for another provider's, or for nobody's."""
_LOCAL_TAG = re.compile(r":(latest|\d+(\.\d+)?[bm])\b")  # as Ollama writes it: llama3.2:3b
_BEDROCK = re.compile(
    r"(?:arn:aws[^/]*/)?(?:(?:us|us-gov|eu|apac|jp|au|ca|global)\.)?"
    r"(?:ai21|amazon|anthropic|cohere|deepseek|meta|mistral|openai|qwen|writer)\.",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """What a model costs, in US dollars per million tokens. Reasoning is output. Tokens that were read from a cache, or
    written to one, cost what other input does, unless they have a price of their own.
    """

    input_per_million: float
    """The price of what the model reads."""
    output_per_million: float
    """The price of what the model writes."""
    cache_read_per_million: float | None = None
    """The price of what the model reads from a cache; None: that of other input."""
    cache_write_per_million: float | None = None
    """The price of what the model writes to a cache; None: that of other input."""

    def cost_usd(
        self, *, input_tokens: int, output_tokens: int, cache_read_tokens: int, cache_write_tokens: int = 0
    ) -> float:
        """The price of one call in US dollars."""
        cached = self.input_per_million if self.cache_read_per_million is None else self.cache_read_per_million
        written = self.input_per_million if self.cache_write_per_million is None else self.cache_write_per_million
        fresh = max(0, input_tokens - cache_read_tokens - cache_write_tokens)
        read = fresh * self.input_per_million + cache_read_tokens * cached + cache_write_tokens * written
        return (read + output_tokens * self.output_per_million) / _MILLION


class GenaiPrices:
    """A `PriceList` of some two thousand models of forty providers; prices of your own come first.

    A model is recognised by its name as people write it: `gpt-4.1`, `azure/gpt-4o-2024-11-20`, `openai:gpt-5`,
    `us.anthropic.claude-sonnet-4-5-20250929-v1:0`, `models/gemini-2.5-pro`. The price is that of the provider that was
    called, where that is known and has the model, else that of a provider named by a prefix. Models that run locally,
    and any others that are not listed, have no price, which is not the same as 0.

    Args:
        overrides: prices by the model's name, exactly as the agent says it.
    """

    def __init__(self, overrides: Mapping[str, ModelPrice] | None = None) -> None:
        self._overrides = dict(overrides or {})

    def load(self) -> None:
        """Read the price list. This takes a sixth of a second, which otherwise the first request for a price takes."""
        _listed("")

    def cost_usd(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int,
        reasoning_tokens: int,
        cache_write_tokens: int = 0,
        provider: str | None = None,
    ) -> float | None:
        """The price of one call in US dollars; None if the model is not known, or the numbers contradict each other."""
        if (own := self._overrides.get(model)) is not None:
            return own.cost_usd(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cache_read_tokens,
                cache_write_tokens=cache_write_tokens,
            )
        if len(model) + len(provider or "") > _LONGEST_NAME or (listed := _listed(model, provider)) is None:
            return None
        from genai_prices import Usage

        biller, info = listed
        try:
            usage = Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_read_tokens=cache_read_tokens,
                cache_write_tokens=cache_write_tokens,
                output_reasoning_tokens=reasoning_tokens,
            )
            with localcontext(_ARITHMETIC):
                price = info.calc_price(usage, biller)
        except ValueError:  # more tokens came from the cache, or went there, than there were
            return None
        # The price of a listed model without any figure is not known, unless the model is called free.
        is_priced = any(figure is not None for figure in vars(price.model_price).values())
        return float(price.total_price) if is_priced or model.endswith(":free") else None


@lru_cache(_MOST_NAMES)
def _listed(model: str, provider: str | None = None) -> tuple[Provider, ModelInfo] | None:
    """The provider and the model whose price counts; None if the list knows none."""
    from genai_prices.data_snapshot import find_provider_by_id, get_snapshot

    snapshot = get_snapshot()
    if provider is not None and not _BEDROCK.match(model):
        if provider.lower() in _LOCAL:
            return None
        called = find_provider_by_id(snapshot.providers, _BILLERS.get(provider, provider))
        # If it does not list the model, the server may be another's, called the same way: then the name alone counts.
        if called is not None and (info := called.find_model(model.lower(), all_providers=snapshot.providers)):
            return called, info
    for biller, name in _readings(model):
        if biller is not None and find_provider_by_id(snapshot.providers, biller) is None:
            continue
        try:
            return snapshot.find_provider_model(name, None, biller, None)
        except LookupError:
            if biller is not None:
                return None  # whoever bills for it does not list it, so what others charge says nothing
    return None


def _readings(model: str) -> Iterator[tuple[str | None, str]]:
    """What a name may mean, likeliest first: a provider, if it names one, and that provider's name for the model."""
    if _BEDROCK.match(model):
        yield "aws", model.rpartition("/")[2]
        return
    found = re.search("[/:]", model)
    prefix = model[: found.start()].lower() if found else ""
    rest = model[found.end() :] if found else ""
    if prefix in _ROUTES:
        yield from _readings(rest)
    elif prefix not in _LOCAL:
        if prefix:
            yield _BILLERS.get(prefix, prefix), rest
        if not _LOCAL_TAG.search(model):
            yield None, model
