"""Counts runs for Prometheus, and shows it how the app does. Imports the harness, and what an app's numbers look like."""

from trackside.app.observers.metrics.errors import MetricsPackageError

try:
    from trackside.app.observers.metrics._observer import MetricsObserver
except ModuleNotFoundError as exc:
    if exc.name != "prometheus_client":
        raise
    raise MetricsPackageError from exc

__all__ = ["MetricsObserver", "MetricsPackageError"]
