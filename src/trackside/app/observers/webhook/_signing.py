"""Signatures in the form of Standard Webhooks, with each secret that is in use."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Any, Final

from standardwebhooks import Webhook

from trackside.app.delivery import ObserverOptionError

__all__ = ["Signer"]

_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = range(24, 65)  # what the specification asks for
_HOW_TO_MAKE_ONE: Final = "python -c 'import base64, os; print(\"whsec_\" + base64.b64encode(os.urandom(32)).decode())'"


class Signer:
    """Signs what is sent with one secret, or with two while receivers change from one to the other.

    Args:
        secret: `whsec_…` or the Base64 behind it; or two of these, the newer one first.

    Raises:
        ObserverOptionError: the secret is missing, or cannot sign.
    """

    def __init__(self, secret: Any) -> None:
        secrets = [*secret] if isinstance(secret, list | tuple) else [secret]
        if not any(secrets):
            raise _error(f"it is missing, and nothing is sent unsigned; make one: {_HOW_TO_MAKE_ONE}")
        if len(secrets) > 2:
            raise _error("it is one secret, or two while receivers change from one to the other")
        self._webhooks = [Webhook(_key(text)) for text in secrets]

    def signatures(self, message_id: str, timestamp: datetime, body: bytes) -> str:
        """The value of `webhook-signature`: one signature for each secret. `timestamp` is in UTC."""
        text = body.decode()
        return " ".join(webhook.sign(message_id, timestamp, text) for webhook in self._webhooks)


def _key(secret: object) -> bytes:
    if not isinstance(secret, str):
        raise _error("it is not a text")
    text = secret.removeprefix(_PREFIX)
    try:
        # Checked here, because the library drops what is not Base64, and signs with what remains.
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _error(f"it is not Base64, with or without {_PREFIX} before it; make one: {_HOW_TO_MAKE_ONE}") from None
    if len(key) not in _KEY_BYTES:
        raise _error(
            f"its Base64 stands for {len(key)} bytes, and Standard Webhooks asks for {_KEY_BYTES.start} to "
            f"{_KEY_BYTES.stop - 1}; make one: {_HOW_TO_MAKE_ONE}"
        )
    return key


def _error(why: str) -> ObserverOptionError:
    return ObserverOptionError(option="secret", why=why)
