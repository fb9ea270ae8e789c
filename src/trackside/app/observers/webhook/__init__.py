"""Posts each event to a user's address: signed, guarded, and never twice with different bytes."""

try:
    from trackside.app.observers.webhook._observer import WebhookObserver
    from trackside.app.observers.webhook._posting import Poster, poster_to
    from trackside.app.observers.webhook._signing import Signer
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"webhooks need {missing.name}, which is not installed: pip install 'trackside[webhook]'", name=missing.name
    ) from missing

__all__ = ["Poster", "Signer", "WebhookObserver", "poster_to"]
