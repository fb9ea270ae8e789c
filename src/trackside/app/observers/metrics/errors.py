"""What is wrong with an installation that shall count for Prometheus."""

from __future__ import annotations

from trackside.harness.errors import TracksideError


class MetricsPackageError(TracksideError, ImportError):
    """MetricsObserver needs prometheus-client, which is not installed: pip install 'trackside[metrics]'."""

    fault = "caller"
