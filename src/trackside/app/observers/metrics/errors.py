"""What can be wrong with an installation that is to count for Prometheus."""

from __future__ import annotations

from trackside.harness.errors import TracksideError


class MetricsPackageError(TracksideError, ImportError):
    """MetricsObserver needs prometheus-client, which is not installed: pip install 'trackside[metrics]'."""

    fault = "caller"
