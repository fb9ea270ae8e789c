"""Makes a trace of each run with OpenTelemetry's API. Imports the harness, and the SDK only if there is an endpoint."""

try:
    from trackside.app.observers.tracing._observer import TracingObserver
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"traces need {missing.name}, which is not installed: pip install 'trackside[otel]'", name=missing.name
    ) from missing

__all__ = ["TracingObserver"]
