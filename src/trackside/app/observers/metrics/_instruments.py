"""Prometheus' own metric types, made from the definitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)

from trackside.app.observers.metrics.definitions import Definition, Kind

type Values = Iterable[tuple[Sequence[str], float]]
"""Label values, in the order of the definition's labels, and the number for them."""


def described(definition: Definition) -> Metric:
    """A metric without numbers."""
    return Metric(_family(definition), definition.help, definition.kind.value, definition.unit)


def counter(definition: Definition) -> Counter:
    """Something to count with, in no registry yet."""
    return Counter(_family(definition), definition.help, definition.labels, unit=definition.unit, registry=None)


def histogram(definition: Definition, buckets: Sequence[float]) -> Histogram:
    """Something that sorts what it observes into buckets, in no registry yet."""
    return Histogram(
        _family(definition), definition.help, definition.labels, unit=definition.unit, buckets=buckets, registry=None
    )


def collected(instrument: Counter | Histogram) -> Iterable[Metric]:
    """What has been counted, without the series that say since when: as many again, which nobody asks for."""
    for metric in instrument.collect():
        metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        yield metric


def gauge_or_counter(definition: Definition, values: Values) -> Metric:
    """Numbers that were counted elsewhere."""
    kind = CounterMetricFamily if definition.kind is Kind.counter else GaugeMetricFamily
    metric = kind(_family(definition), definition.help, labels=definition.labels, unit=definition.unit)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def summary(definition: Definition, *, count: int, total: float) -> Metric:
    """How many there were, and their total."""
    return SummaryMetricFamily(
        _family(definition), definition.help, count_value=count, sum_value=total, unit=definition.unit
    )


def info(definition: Definition, says: dict[str, str]) -> Metric:
    """A metric that does not change."""
    return InfoMetricFamily(_family(definition), definition.help, says)


def _family(definition: Definition) -> str:
    """The name that all series of a metric have in common."""
    match definition.kind:
        case Kind.counter:
            return definition.name.removesuffix("_total")
        case Kind.info:
            return definition.name.removesuffix("_info")
        case Kind.gauge | Kind.histogram | Kind.summary:
            return definition.name
        case _:
            assert_never(definition.kind)
