"""Real receivers of notifications."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from inboxes import HttpInbox, SmtpInbox

from trackside.app.observers.notify import NotifyObserver

type Make = Callable[..., Awaitable[NotifyObserver]]


@pytest.fixture
def inbox() -> Iterator[HttpInbox]:
    with HttpInbox() as inbox:
        yield inbox


@pytest.fixture
def second() -> Iterator[HttpInbox]:
    with HttpInbox() as inbox:
        yield inbox


@pytest.fixture
def mails() -> Iterator[SmtpInbox]:
    with SmtpInbox() as inbox:
        yield inbox


async def notifier(*inboxes: HttpInbox, **options: Any) -> NotifyObserver:
    """An observer that notifies these inboxes, made in a thread, since making it imports much."""
    to = [f"json://127.0.0.1:{inbox.port}/" for inbox in inboxes]
    return await asyncio.to_thread(lambda: NotifyObserver(**{"to": to} | options))
