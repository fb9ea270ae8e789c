"""The sums over some runs, added up from rows of sums or of runs, and the records that tell them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from operator import add

from trackside.app.storage._rows.records import RunTotals, TokenTotals
from trackside.app.storage._rows.totals import dollars, middle_of
from trackside.harness.types import RunStatus

USED = ("total_input_tokens", "total_output_tokens", "llm_call_count", "tool_call_count", "message_count")
"""What a run used, under the names in its row and in the sums over runs."""

TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
"""The same for one model or caller."""


@dataclass(slots=True)
class Sums:
    """The sums over some runs. Percentiles are exact unless there are `bins`."""

    runs: dict[tuple[str, str], Sequence[int]] = field(default_factory=dict)
    """By agent and status: runs, what they used, those with a price, and nano-dollars."""
    usage: dict[tuple[str, str], Sequence[int]] = field(default_factory=dict)
    """By kind and name: runs, tokens, those with a price, and nano-dollars."""
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By agent, in seconds."""
    bins: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """Counts of durations by agent and bin."""

    @property
    def count(self) -> int:
        """How many runs there are."""
        return sum(runs for runs, *_ in self.runs.values())

    def add_runs(self, agent: str, status: str, amounts: Sequence[int]) -> None:
        """Add runs of an agent that have a status."""
        known = self.runs.get((agent, status))
        self.runs[agent, status] = amounts if known is None else [*map(add, known, amounts)]

    def add_usage(self, kind: str, name: str, amounts: Sequence[int]) -> None:
        """Add what runs used of a model, or what a caller of models used."""
        known = self.usage.get((kind, name))
        self.usage[kind, name] = amounts if known is None else [*map(add, known, amounts)]

    def add_bins(self, agent: str, bins: Iterable[int], counts: Iterable[int]) -> None:
        """Add durations of an agent's runs, as a count for each bin."""
        _add_counts(self.bins[agent], zip(bins, counts, strict=True))

    def total(self) -> RunTotals:
        """All of them together."""
        return self._of({agent for agent, _ in self.runs})

    def by_agent(self) -> dict[str | None, RunTotals]:
        """By agent; None: no agent."""
        return {agent or None: self._of({agent}) for agent in sorted({agent for agent, _ in self.runs})}

    def by_name(self, kind: str) -> dict[str, TokenTotals]:
        """What they used, by model or by caller."""
        return {
            name: TokenTotals(cost_usd=dollars(nano) if priced else None, **dict(zip(TOKENS, tokens, strict=True)))
            for (of_kind, name), (_, *tokens, priced, nano) in sorted(self.usage.items())
            if of_kind == kind
        }

    def _of(self, agents: set[str]) -> RunTotals:
        by_status: Counter[RunStatus] = Counter()
        sums: Sequence[int] = [0] * (len(USED) + 2)
        for (agent, status), (count, *amounts) in sorted(self.runs.items()):
            if agent in agents:
                by_status[RunStatus(status)] += count
                sums = [*map(add, sums, amounts)]
        *used, priced, nano = sums
        duration_p50, duration_p95 = self._percentiles(agents, 50, 95)
        return RunTotals(
            runs=by_status.total(),
            by_status=dict(by_status),
            cost_usd=dollars(nano) if priced else None,
            duration_p50=duration_p50,
            duration_p95=duration_p95,
            **dict(zip(USED, used, strict=True)),
        )

    def _percentiles(self, agents: set[str], *percents: int) -> list[float | None]:
        """By the nearest rank, in ascending order: of single durations, each is one that occurred."""
        if self.bins:
            counts = self._binned(agents)
            bins = sorted(counts)
            return [
                None if one is None else middle_of(one)
                for one in _ranked(bins, [counts[bin_] for bin_ in bins], percents)
            ]
        lasted = sorted(chain.from_iterable(self.durations.get(agent, ()) for agent in agents))
        return _ranked(lasted, repeat(1, len(lasted)), percents)

    def _binned(self, agents: set[str]) -> Mapping[int, int]:
        """How many of them are in each bin."""
        found = [self.bins[agent] for agent in agents if agent in self.bins]
        if len(found) == 1:
            return found[0]
        counts: dict[int, int] = {}
        for one in found:
            _add_counts(counts, one.items())
        return counts


def _add_counts(counts: dict[int, int], more: Iterable[tuple[int, int]]) -> None:
    # A `Counter` takes twice as long, and there are tens of thousands in a month.
    known = counts.get
    for number, count in more:
        counts[number] = known(number, 0) + count


def _ranked[T](values: Sequence[T], counts: Iterable[int], percents: Sequence[int]) -> list[T | None]:
    """The values at these ranks, in percent, of sorted values that each occur so many times; None if there are none."""
    up_to = [*accumulate(counts)]
    if not up_to or not up_to[-1]:
        return [None for _ in percents]
    return [values[bisect_left(up_to, (up_to[-1] * percent + 99) // 100)] for percent in percents]
