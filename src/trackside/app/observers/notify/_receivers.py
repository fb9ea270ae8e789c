"""A receiver of notifications: one address of Apprise, whose secrets appear in no log and no message."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, override

from trackside.app.delivery import ObserverOptionError
from trackside.app.masking import parts_of, without_secrets
from trackside.app.observers.notify._messages import Message
from trackside.harness.foreign.failures import line_of

__all__ = ["NotSentError", "Receiver"]

_LOGGERS: Final = ("apprise", "requests", "urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")
"""The loggers that write something while a message is sent."""

_AWAY = re.compile(
    r"connection error|connect|timed? ?out|unreachable|error=(?:408|425|429|502|503|504)\b", re.IGNORECASE
)

_LONGEST_THROTTLE: Final = 1.0
"""The most seconds between two requests to one service."""


class NotSentError(Exception):
    """A receiver did not take a message; `away` if it takes none at all now, `in_line` if it takes others first."""

    def __init__(self, why: str, *, away: bool, in_line: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.away = away
        self.in_line = in_line


class _Sending:
    """What was logged while something was sent, without the parts of its address."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._shown = dict.fromkeys(secrets, "****")
        self.said: list[str] = []

    def without_secrets(self, text: str) -> str:
        return without_secrets(text, self._shown)


_sending: ContextVar[_Sending | None] = ContextVar("trackside_notify_sending", default=None)


class _Confidential(logging.Filter):
    """Passes only warnings while a message is sent, without secrets; other records quote whole requests."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if (sending := _sending.get()) is None:
            return True
        if record.levelno < logging.WARNING:
            return False
        record.msg, record.args = sending.without_secrets(record.getMessage()), None
        record.exc_info = record.exc_text = None
        sending.said.append(record.msg)
        return True


_confidential = _Confidential()


@contextmanager
def _listening(secrets: Iterable[str]) -> Generator[_Sending]:
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_confidential)  # added only once, however often this is called
    sending = _Sending(secrets)
    token = _sending.set(sending)
    try:
        yield sending
    finally:
        _sending.reset(token)


class Receiver:
    """One address. Messages to it are sent one after another.

    Args:
        url: the address, as Apprise takes it.
        number: its number among those in the settings, from 1.

    Raises:
        ObserverOptionError: Apprise does not know such an address, or is not installed.
    """

    def __init__(self, url: Any, number: int) -> None:
        try:
            import apprise
        except ImportError as exc:
            why = "it needs apprise, which is not installed: pip install 'trackside[notify]'"
            raise ObserverOptionError(option="to", why=why) from exc
        if not isinstance(url, str) or not url.strip():
            raise ObserverOptionError(option="to", why=f"number {number} is no text")
        scheme, mark, rest = url.strip().partition("://")
        secrets = parts_of(rest if mark else scheme)  # all of it: there may be another address in its query
        # Apprise's own time limit is not needed here; it uses threads that a process would wait for when it ends.
        asset = apprise.AppriseAsset(
            async_mode=False, app_id="Trackside", app_desc="Trackside", app_url="", service_timeout=0
        )
        with _listening(secrets) as sending:
            service = apprise.Apprise.instantiate(url, asset=asset)
        if service is None:
            said = f": {sending.said[-1]}" if sending.said else ""
            why = f"Apprise does not understand number {number}, which begins with {_scheme_of(url)}{said}"
            raise ObserverOptionError(option="to", why=why)
        # Mails, for one, would go out only every 5.5 seconds; the observer decides how many there may be.
        service.request_rate_per_sec = min(service.request_rate_per_sec, _LONGEST_THROTTLE)
        self.label = f"receiver {number} ({service.service_name})"
        self.lock = asyncio.Lock()
        self.taken = 0
        """How many messages it has taken."""
        self._secrets = secrets
        self._apprise = apprise.Apprise(asset=asset)
        self._apprise.add(service)

    def send(self, message: Message) -> None:
        """Send a message, however long that takes; call this in a thread.

        Raises:
            NotSentError: it was not taken.
        """
        with _listening(self._secrets) as sending:
            try:
                taken = self._apprise.notify(
                    body=message.body, title=message.title, notify_type=message.kind, body_format="text"
                )
            except Exception as exc:  # noqa: BLE001  # Apprise or a plugin failed: the message was not sent
                raise NotSentError(sending.without_secrets(line_of(exc)), away=False) from None
        if not taken:
            why = "; ".join(dict.fromkeys(said.rstrip(".") for said in sending.said)) or "Apprise does not say why"
            raise NotSentError(why, away=_AWAY.search(why) is not None)


def _scheme_of(url: str) -> str:
    scheme = re.match(r"[a-z][a-z0-9+.-]{0,20}://", url.strip(), re.IGNORECASE)
    return f'"{scheme[0]}"' if scheme else "no scheme"
