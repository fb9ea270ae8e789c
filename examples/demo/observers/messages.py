"""The receivers of messages: a broker's stream, a mailbox, and the program's log."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, override

import nats
import nats.errors
from inboxes import SmtpInbox
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from nats_server import NatsServer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.observers.record import Arrival, Record
from demo.observers.servers import running
from demo.observers.stand import Stand, headline
from trackside import LifecycleEventType
from trackside.app.cli.formatting import count, one_line
from trackside.app.cli.views.appearance import look_of, words_of
from trackside.app.observers.logging import LoggingObserver
from trackside.app.wiring import App

PATIENCE = 10.0  # seconds
STREAM = "TRACKSIDE"
SUBJECTS = "trackside.events.>"


class BrokerStand(Stand):
    """A NATS server with JetStream, read by a consumer of its stream."""

    name = "broker"

    def __init__(self) -> None:
        self._server: NatsServer | None = None
        self._client: Client | None = None
        self._heard = 0
        self._kept: list[Msg] = []

    @override
    async def open(self, stack: AsyncExitStack) -> None:
        self._server = await stack.enter_async_context(running(NatsServer))
        self._client = await stack.enter_async_context(await nats.connect(self._server.url))
        await self._client.subscribe(SUBJECTS, cb=self._hear)

    @override
    def settings(self) -> str:
        return f'[[observers]]\ntype = "broker"\nurl = "{self.place}"\n'

    @property
    @override
    def place(self) -> str:
        assert self._server is not None, "used outside of its context"
        return self._server.url

    @override
    def came(self) -> str:
        return count(self._heard, "message")

    @override
    async def settle(self, app: App, record: Record) -> None:
        assert self._client is not None, "used outside of its context"
        stream = self._client.jetstream()
        with suppress(NotFoundError, nats.errors.TimeoutError):  # `arrivals` says what is missing
            number = (await stream.stream_info(STREAM)).state.messages
            consumer = await stream.pull_subscribe(SUBJECTS, stream=STREAM)
            while len(self._kept) < number:
                self._kept += await consumer.fetch(number - len(self._kept), timeout=PATIENCE)

    @override
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        ids = [(message.headers or {}).get("Nats-Msg-Id", "") for message in self._kept]
        return [Arrival.of("NATS", "messages", record.ids(), ids, f"stream {STREAM}, by event_id")]

    @override
    def show(self, console: Console, record: Record) -> None:
        size = sum(len(message.data) for message in self._kept)
        headline(console, "Broker", f"stream {STREAM} keeps {len(self._kept)} messages, {size:,} bytes")
        by_subject: dict[str, list[Msg]] = defaultdict(list)
        for message in self._kept:
            by_subject[message.subject].append(message)
        table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        table.add_column("subject", no_wrap=True)
        table.add_column("messages", justify="right", no_wrap=True)
        table.add_column("bytes", justify="right", no_wrap=True)
        table.add_column("the last one", no_wrap=True, ratio=1)
        for subject, messages in by_subject.items():
            event = record.by_id[json.loads(messages[-1].data)["event_id"]]
            said = f"{record.lane(event.run_id)} {event.sequence}: {one_line(words_of(event)) or look_of(event).label}"
            size = sum(len(message.data) for message in messages)
            table.add_row(subject, str(len(messages)), f"{size:,}", Text(said, "dim", overflow="ellipsis"))
        console.print(table)

    async def _hear(self, message: Msg) -> None:
        self._heard += 1


class MailStand(Stand):
    """A mail server that keeps the messages it gets, which are about runs that failed."""

    name = "mails"

    def __init__(self) -> None:
        self._inbox = SmtpInbox()

    @override
    async def open(self, stack: AsyncExitStack) -> None:
        stack.enter_context(self._inbox)

    @override
    def settings(self) -> str:
        how = "from=trackside@example.org&to=team@example.org&mode=insecure&format=text"
        return f"""\
[[observers]]
type = "notify"
to = "mailto://127.0.0.1:{self._inbox.port}/?{how}"
events = ["run_failed"]

[observers.templates.run_failed]
title = "$agent: $status"
body = "$error_type: $error\\nrun $run_id, after $duration"
"""

    @property
    @override
    def place(self) -> str:
        return f"smtp://127.0.0.1:{self._inbox.port}, for runs that fail"

    @override
    def came(self) -> str:
        return count(len(self._inbox.mails), "mail")

    @override
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        failed = record.of_type(LifecycleEventType.RUN_FAILED)
        texts = [_text_of(mail.message) for mail in self._inbox.mails]
        told = [event.run_id for text in texts for event in failed if event.run_id in text]
        return [
            Arrival.of("mailbox", "mails", [event.run_id for event in failed], told, "one for each run that failed")
        ]

    @override
    def show(self, console: Console, record: Record) -> None:
        headline(console, "Mails")
        for mail in self._inbox.mails:
            message = mail.message
            console.print(
                Panel(
                    Text(_text_of(message).strip(), overflow="fold"),
                    title=Text(str(message["subject"]), "bold"),
                    title_align="left",
                    subtitle=Text(
                        f"{mail.sender.strip('<>')} → {', '.join(to.strip('<>') for to in mail.recipients)}", "dim"
                    ),
                    subtitle_align="right",
                    border_style="dim",
                    padding=(0, 1),
                )
            )


def _text_of(message: Any) -> str:
    part = message.get_body(("plain",))
    return str(part.get_content()) if part is not None else ""


class LogStand(Stand):
    """A file with one line of JSON for each event."""

    name = "log"

    def __init__(self, file: Path) -> None:
        self._file = file

    @override
    def settings(self) -> str:
        return f"""\
[[observers]]
type = "logging"
format = "json"
level = "debug"
file = "{self._file}"
loggers = ["trackside"]
"""

    @property
    @override
    def place(self) -> str:
        return str(self._file)

    @override
    def came(self) -> str:
        return f"{self._file.stat().st_size:,} bytes" if self._file.exists() else ""

    @override
    async def settle(self, app: App, record: Record) -> None:
        (observer,) = (each.observer for each in app.observers if isinstance(each.observer, LoggingObserver))
        await observer.flush(PATIENCE)

    @override
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        lines = [line["event_id"] for line in self._lines() if "event_id" in line]
        return [Arrival.of("log", "lines", record.ids(), lines, "a line of JSON for each event")]

    @override
    def show(self, console: Console, record: Record) -> None:
        lines = self._lines()
        levels = Counter(line["level"] for line in lines)
        counted = ", ".join(f"{number} {level}" for level, number in levels.most_common())
        headline(console, "Log", f"{counted}; the lines above info:" if lines else "")
        for line in lines:
            if line["level"] in {"warning", "error"}:
                said = Text(f"{line['level']:<8}", "red" if line["level"] == "error" else "yellow")
                said.append(f"{record.lane(line['run_id'])} " if "run_id" in line else "", "cyan").append(
                    line["message"]
                )
                what = one_line(str(line.get("error") or line.get("reason") or line.get("cancel_mode") or ""))
                console.print(said.append(f" {what}", "dim"), overflow="ellipsis", no_wrap=True)

    def _lines(self) -> list[dict[str, Any]]:
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        return [json.loads(line) for line in lines]
