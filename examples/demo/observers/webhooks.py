"""Two webhook endpoints: one that takes everything at once, and one that is down until the first has everything."""

from __future__ import annotations

import asyncio
import base64
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from time import monotonic
from typing import override

from rich.console import Console
from rich.table import Table
from rich.text import Text
from webhook_receiver import Answer, Connection, WebhookReceiver, reset, status

from demo.observers.record import Arrival, Record
from demo.observers.stand import Stand, headline
from trackside.app.cli.formatting import duration
from trackside.app.cli.views.appearance import look_of

ENDS = ("run_completed", "run_failed", "run_cancelled")
PATIENCE = 10.0  # seconds

_TAKEN = "200"
_OK: tuple[str, Answer] = (_TAKEN, status(200))
_FAILURES = (("hung up", reset), ("500", status(500)), ("503", status(503, {"Retry-After": "0"})))
"""How the second endpoint fails: in each way once, then in the last way until it is up again."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One request that came; `at` is when, on the monotonic clock."""

    at: float
    event_id: str
    answered: str
    verified: tuple[bool, ...]
    body: bytes


class _Endpoint:
    """Verifies each request with its secrets, and answers 200, or the next of these failures while it is down."""

    def __init__(self, name: str, secrets: int, failures: Sequence[tuple[str, Answer]] = ()) -> None:
        self.name = name
        self.requests: list[_Request] = []
        self._failures = [*failures]
        self.is_down = bool(failures)
        self._secrets = [f"whsec_{base64.b64encode(os.urandom(32)).decode()}" for _ in range(secrets)]
        self.variables = [f"DEMO_{name.upper()}_SECRET_{number}" for number in range(1, secrets + 1)]
        self.receiver = WebhookReceiver(*self._secrets)
        self.receiver.otherwise = self._answer
        self._came = asyncio.Event()

    def settings(self) -> str:
        """Its table in the settings, with secrets from the environment."""
        os.environ.update(zip(self.variables, self._secrets, strict=True))
        secrets = ", ".join(f'"env:{name}"' for name in self.variables)
        return (
            f'[[observers]]\ntype = "webhook"\nname = "{self.name}"\nurl = "{self.receiver.url}"\n'
            f"secret = [{secrets}]\nallow_private_addresses = true\n"
        )

    @property
    def taken(self) -> list[_Request]:
        """The requests that it accepted."""
        return [request for request in self.requests if request.answered == _TAKEN]

    async def until(self, *, taken: int = 0, failed: int = 0) -> None:
        """Wait until this many requests were taken, and that many were not."""
        while len(self.taken) < taken or len(self.requests) - len(self.taken) < failed:
            self._came.clear()
            await self._came.wait()

    async def _answer(self, connection: Connection) -> None:
        request = self.receiver.requests[-1]
        words, answer = self._failures[0] if self.is_down else _OK
        if self.is_down and len(self._failures) > 1:
            del self._failures[0]
        at, event_id = monotonic(), request.headers["webhook-id"]
        self.requests.append(_Request(at, event_id, words, request.verified, request.body))
        self._came.set()
        await answer(connection)


class WebhookStand(Stand):
    """Both endpoints, each with a subscription of its own."""

    name = "webhooks"

    def __init__(self) -> None:
        self.steady = _Endpoint("crm", 1)
        self.failing = _Endpoint("billing", 2, _FAILURES)
        self._meanwhile = 0

    @override
    async def open(self, stack: AsyncExitStack) -> None:
        for endpoint in (self.steady, self.failing):
            await stack.enter_async_context(endpoint.receiver)

    @override
    def settings(self) -> str:
        ends = ", ".join(f'"{kind}"' for kind in ENDS)
        return f"{self.steady.settings()}\n{self.failing.settings()}events = [{ends}]\nlongest_pause = 0.25\n"

    @property
    @override
    def place(self) -> str:
        return f"{self.steady.receiver.url}, and {self.failing.receiver.url}, which is down at first"

    @override
    def came(self) -> str:
        failing = self.failing
        state = "down" if failing.is_down else "up"
        return f"crm {len(self.steady.taken)}, billing {len(failing.taken)} in {len(failing.requests)} tries ({state})"

    def recover(self) -> None:
        """Bring the second endpoint up: from now on it takes what comes."""
        self.failing.is_down = False

    async def outlast(self, record: Record) -> None:
        """Keep the second endpoint down until it has failed in each way and the first has everything, within limits."""
        with suppress(TimeoutError):  # `arrivals` says what is missing
            async with asyncio.timeout(PATIENCE):
                await self.steady.until(taken=len(record.events))
                await self.failing.until(failed=len(_FAILURES))
        self._meanwhile = len(self.steady.taken)
        self.recover()

    @override
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        return [
            _arrival(self.steady, record.ids(), f"{self._meanwhile} of them while billing was down"),
            _arrival(self.failing, record.ids(ENDS), _tries(self.failing)),
        ]

    @override
    def show(self, console: Console, record: Record) -> None:
        steady, failing = self.steady, self.failing
        headline(
            console,
            "Webhooks",
            f"crm took {len(steady.taken)} events in {len(steady.requests)} requests, "
            f"{self._meanwhile} of them while billing took nothing; each request to billing:",
        )
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        table.add_column("at", justify="right", no_wrap=True, style="dim")
        table.add_column("event", no_wrap=True)
        table.add_column("of", no_wrap=True)
        table.add_column("webhook-id", no_wrap=True, style="dim", ratio=1)
        table.add_column("try", justify="right", no_wrap=True)
        table.add_column("answered", no_wrap=True)
        table.add_column("signatures", no_wrap=True)
        tries = Counter[str]()
        began = failing.requests[0].at if failing.requests else 0.0
        for request in failing.requests:
            tries[request.event_id] += 1
            event = record.by_id[request.event_id]
            look = look_of(event)
            table.add_row(
                duration(request.at - began),
                Text(f"{look.symbol} {look.label}", look.style),
                record.lane(event.run_id),
                f"…{request.event_id[-12:]}",
                str(tries[request.event_id]),
                Text(request.answered, "green" if request.answered == _TAKEN else "red"),
                _signed(request.verified),
            )
        console.print(table)


def _arrival(endpoint: _Endpoint, wanted: Sequence[str], remark: str) -> Arrival:
    """What it took with all signatures right and the same bytes each time."""
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for request in endpoint.requests:
        bodies[request.event_id].add(request.body)
    sound = [each.event_id for each in endpoint.taken if all(each.verified) and len(bodies[each.event_id]) == 1]
    return Arrival.of(endpoint.name, "signed events", wanted, sound, remark)


def _tries(endpoint: _Endpoint) -> str:
    failed = len(endpoint.requests) - len(endpoint.taken)
    return f"{len(endpoint.requests)} requests, {failed} of which it refused"


def _signed(verified: Sequence[bool]) -> Text:
    """Whether the request has a signature by the new secret, and whether by the old one."""
    return Text(" ").join(
        Text(f"{'✓' if right else '✗'} {name}", "green" if right else "red")
        for name, right in zip(("new", "old"), verified, strict=True)
    )
