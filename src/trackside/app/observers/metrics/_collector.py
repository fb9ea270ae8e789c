"""What a registry of prometheus_client asks for: everything in `DEFINITIONS`, with its current values."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from prometheus_client import Metric

from trackside._version import __version__
from trackside.app.observers.metrics import definitions as d
from trackside.app.observers.metrics._counting import RunCounts
from trackside.app.observers.metrics._instruments import described, info
from trackside.app.observers.metrics._vitals import VitalsMetrics, active_runs


class MetricsCollector:
    """Collects what was counted, and the vitals once there are any."""

    def __init__(self, counts: RunCounts) -> None:
        self.vitals: VitalsMetrics | None = None
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        """All metrics there may be, so that one registry does not get two collectors with the same names."""
        return map(described, d.DEFINITIONS)

    def collect(self) -> Iterable[Metric]:
        """The metrics that there are now."""
        yield from self._counts.collect()
        if self.vitals is None:
            yield active_runs(self._counts.running())
        else:
            yield from self.vitals.collect()
        yield info(d.BUILD, {"version": __version__, "python_version": platform.python_version()})
