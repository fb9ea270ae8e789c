"""Counts runs for Prometheus, and shows it how the app is doing. Imports the harness and the form of app vitals."""

from trackside.app.observers.metrics.errors import MetricsPackageError

try:
    from trackside.app.observers.metrics._observer import MetricsObserver
except ModuleNotFoundError as exc:
    if exc.name != "prometheus_client":
        raise
    raise MetricsPackageError from exc

__all__ = ["MetricsObserver", "MetricsPackageError"]
