"""Secrets in the server's settings, which may be kept in the environment: `env:NAME`."""

from __future__ import annotations

import os
from typing import Final

from trackside.app.delivery import ObserverOptionError
from trackside.app.settings import Settings

_ENVIRONMENT: Final = "env:"
_OF_WEBHOOKS: Final = "server.webhook_secret"


def secret_in(settings: Settings, key: str, value: str | None) -> str | None:
    """The secret that a value of the settings stands for: itself, or what a variable has.

    Raises:
        SettingsError: there is no such variable.
    """
    if value is None or not value.startswith(_ENVIRONMENT):
        return value
    variable = value.removeprefix(_ENVIRONMENT)
    if not os.environ.get(variable):
        raise settings.complaint(key, f"the environment has no variable {variable or '(no name)'}")
    return os.environ[variable]


def webhook_secret_of(settings: Settings) -> str | None:
    """The secret with which a server signs what it tells of the ends of runs; None: that is not signed.

    Without the packages for webhooks nothing is told, and the secret is not tried.

    Raises:
        SettingsError: nothing can be signed with it, or the environment does not have it.
    """
    secret = secret_in(settings, _OF_WEBHOOKS, settings.server.webhook_secret)
    if secret is None:
        return None
    try:
        from trackside.app.observers.webhook import Signer
    except ModuleNotFoundError:
        return secret
    try:
        Signer(secret)
    except ObserverOptionError as exc:
        raise settings.complaint(_OF_WEBHOOKS, exc.details["why"]) from exc
    return secret
