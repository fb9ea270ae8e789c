"""No sink has what the redaction hook takes out: every byte that each of them received is searched for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from inboxes import HttpInbox, SmtpInbox
from nats_server import NatsServer
from otlp_receiver import OtlpReceiver
from valkey_server import ValkeyServer

from trackside import RunSpec
from trackside.app.observers.live import LiveObserver
from trackside.app.observers.metrics import MetricsObserver
from trackside.app.settings import load_settings
from trackside.app.wiring import App, open_app
from trackside.harness.types import RunStatus

SECRET = "hunter2isthepassword"

AGENTS = f"""
SECRET = "{SECRET}"

def said(run):
    run.set_title(f"about {{SECRET}}")
    run.message({{"type": "human", "content": f"and then {{SECRET}}"}})
    calls = [{{"name": SECRET, "args": {{"key": SECRET}}}}]
    run.message({{"type": "ai", "content": f"why {{SECRET}}", "tool_calls": calls}})

async def answer(input, run):
    said(run)
    run.send({{"found": SECRET}})
    return {{"messages": [{{"type": "ai", "content": f"it is {{input}} {{SECRET}}"}}]}}

async def fail(input, run):
    said(run)
    try:
        raise KeyError(SECRET)
    except KeyError as exc:
        raise ValueError(f"no {{SECRET}} here") from exc

async def ask(input, run):
    said(run)
    return run.interrupt({{"question": f"is it {{SECRET}}?", "args": {{SECRET: [SECRET]}}}})

async def name(input, run):
    with run.call("execute_tool", f"tool-{{SECRET}}", caller=f"caller-{{SECRET}}"):
        pass
    run.record_usage(f"model-{{SECRET}}", input_tokens=3, output_tokens=4)
    raise type(f"Error{{SECRET}}", (Exception,), {{}})("no")
"""

PRIVACY = f"""
import json

def hide(kind, payload):
    return json.loads(json.dumps(payload).replace("{SECRET}", "[hidden]"))
"""

LEDGER = """
class Ledger:
    def __init__(self, *, path):
        self.file = open(path, "a")
    async def on_event(self, event):
        self.file.write(repr(event) + "\\n")
        self.file.flush()
    async def aclose(self):
        self.file.close()
"""

ALL_EVENTS = '["run_started", "human_message", "run_completed", "run_failed", "run_cancelled", "thread_status_updated"]'
BODY = "$agent $title $error $error_type $reason $first_human_message $last_ai_message $message"


class Collector(OtlpReceiver):
    """A collector that keeps what it gets as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = b""

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        self.raw += repr(headers).encode() + body
        return super().take(path, headers, body)


class Sinks:
    """One sink of each kind, all of them real, and what they received."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.http = {
            name: stack.enter_context(HttpInbox()) for name in ("webhook", "cloudevents", "notify", "openlineage")
        }
        self.mails = stack.enter_context(SmtpInbox())
        self.collector = stack.enter_context(Collector())
        self.nats = stack.enter_context(NatsServer())
        self.valkey = stack.enter_context(ValkeyServer())
        self.followed: list[bytes] = []
        self.metrics = b""

    def settings(self, *, redact: bool) -> str:
        ports = {name: inbox.port for name, inbox in self.http.items()}
        mail = f"mailto://127.0.0.1:{self.mails.port}/?from=a@example.org&to=b@example.org&mode=insecure&format=text"
        hook = f'secret = "whsec_{"QUJD" * 10}"\nallow_private_addresses = true'
        templates = "".join(
            f'[observers.templates.{kind}]\ntitle = "$agent"\nbody = "{BODY}"\n' for kind in json.loads(ALL_EVENTS)
        )
        told = '["run_completed", "run_failed"]'  # two messages are a second apart
        notify = f"events = {told}\non = [{{ events = {told} }}]\n{templates}"
        tables = (
            'type = "metrics"',
            f'type = "tracing"\nendpoint = "{self.collector.url}"\ncapture_content = true',
            'type = "logging"\nformat = "json"\nfile = "runs.jsonl"\ncontent = true\nlevel = "debug"',
            f'type = "webhook"\nname = "webhook"\nurl = "http://127.0.0.1:{ports["webhook"]}/"\n{hook}',
            f'type = "webhook"\nname = "cloudevents"\nformat = "cloudevents"\nurl = "http://127.0.0.1:{ports["cloudevents"]}/"\n{hook}',
            f'type = "broker"\nname = "nats"\nurl = "{self.nats.url}"',
            f'type = "broker"\nname = "valkey"\nurl = "{self.valkey.url}"',
            f'type = "openlineage"\nurl = "http://127.0.0.1:{ports["openlineage"]}"',
            'type = "ledger.py:Ledger"\nname = "plugin"\npath = "ledger.txt"',
            f'type = "notify"\nname = "mail"\nto = "{mail}"\n{notify}',
            f'type = "notify"\nname = "chat"\nto = "json://127.0.0.1:{ports["notify"]}/"\n{notify}',
        )
        agents = "".join(f'{name} = "agents.py:{name}"\n' for name in ("answer", "fail", "ask", "name"))
        hidden = '[runs]\nredact = "privacy.py:hide"\n' if redact else ""
        return f"{hidden}[agents]\n{agents}" + "".join(f"[[observers]]\n{table}\n" for table in tables)

    def received(self) -> dict[str, bytes]:
        """Every byte that each sink has, by its name; for mails also the texts as their readers see them."""
        found = {
            name: b"".join(f"{each.path} {each.headers}\n".encode() + each.body for each in inbox.requests)
            for name, inbox in self.http.items()
        }
        texts = (str(mail.message.get_content()).encode() for mail in self.mails.mails)
        found["mail"] = b"".join([*(mail.raw for mail in self.mails.mails), *texts])
        found["tracing"] = self.collector.raw + repr(self.collector.spans).encode()
        found["metrics"] = self.metrics
        found["live"] = b"\n".join(self.followed)
        found["logging"] = (self.folder / "runs.jsonl").read_bytes()
        found["plugin"] = (self.folder / "ledger.txt").read_bytes()
        found["nats"] = _all_of(self.nats.folder)
        found["valkey"] = _all_of(self.valkey.folder)
        found["database"] = b"".join(path.read_bytes() for path in sorted(self.folder.glob("trackside.db*")))
        return found


def _all_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture
def sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blockbuster: BlockBuster) -> Iterator[Sinks]:
    blockbuster.deactivate()  # the plugin writes files on the loop, as people's first plugins do
    monkeypatch.chdir(tmp_path)
    for name, text in (("agents", AGENTS), ("privacy", PRIVACY), ("ledger", LEDGER)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    with contextlib.ExitStack() as stack:
        yield Sinks(tmp_path, stack)


@contextlib.asynccontextmanager
async def app_with(sinks: Sinks, *, redact: bool) -> AsyncGenerator[App]:
    """The app with these settings, and a live follower of everything that happens in it."""
    (sinks.folder / "trackside.toml").write_text(sinks.settings(redact=redact), encoding="utf-8")
    live = LiveObserver()

    async def follow() -> None:
        async with live.follow() as events:
            async for item in events:
                sinks.followed.append(getattr(item, "data", b""))

    async with open_app(load_settings(), observers=[live], hands_over=False) as app:
        following = asyncio.create_task(follow(), name="follower")
        yield app
        await app.manager.aclose()
        await app.deliveries.drain(100)
        assert not app.deliveries.left
        (metrics,) = (one.observer for one in app.observers if isinstance(one.observer, MetricsObserver))
        sinks.metrics = metrics.render()[0]
    await live.aclose()
    await following


async def run_all(sinks: Sinks, agents: Mapping[str, RunStatus], *, redact: bool) -> None:
    async with app_with(sinks, redact=redact) as app:
        for agent, status in agents.items():
            asked = {"messages": [{"type": "human", "content": f"find {SECRET}"}]}
            spec = RunSpec(agent, asked, metadata={"note": SECRET, "deep": {"list": [SECRET]}, SECRET: 1})
            result = await (await app.manager.start(spec)).result()
            assert result.status is status, result.error


def _which_have(text: str, received: Mapping[str, bytes]) -> set[str]:
    return {name for name, found in received.items() if text.encode() in found}


def tables_with_it(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name for name in names if SECRET in str(database.execute(f'SELECT * FROM "{name}"').fetchall())}


TEXTS = {"answer": RunStatus.success, "fail": RunStatus.error, "ask": RunStatus.interrupted}


async def test_what_the_hook_takes_out_of_texts_is_in_no_sink(sinks: Sinks) -> None:
    await run_all(sinks, TEXTS, redact=True)
    received = sinks.received()

    assert all(received.values()), "every sink received something"
    assert _which_have(SECRET, received) <= {"database"}
    assert tables_with_it(sinks.folder / "trackside.db") == {"thread_states"}, "what threads remember is for agents"
    assert _which_have("[hidden]", received) == received.keys() - {"metrics"}


async def test_without_the_hook_each_sink_that_carries_texts_has_it(sinks: Sinks) -> None:
    await run_all(sinks, TEXTS, redact=False)
    received = sinks.received()

    assert _which_have(SECRET, received) == received.keys() - {"metrics"}


async def test_what_a_run_was_asked_for_is_not_left_in_the_files_of_the_database(sinks: Sinks) -> None:
    await run_all(sinks, {"fail": RunStatus.error}, redact=True)
    assert SECRET.encode() not in sinks.received()["database"]


async def test_names_that_the_hook_changes_are_in_no_sink_as_they_were(sinks: Sinks) -> None:
    await run_all(sinks, {"name": RunStatus.error}, redact=True)
    received = sinks.received()

    assert _which_have(SECRET, received) <= {"database"}
    assert tables_with_it(sinks.folder / "trackside.db") <= {"thread_states"}
    for name in ("tool-", "caller-", "model-", "Error"):
        assert f"{name}[hidden]".encode() in received["plugin"]
    assert b"model-[hidden]" in received["metrics"]
