"""Clients of a server that is killed again and again: LangGraph's SDK and bare sockets, each of whom tries until he knows.

What they were told is in `words`. A client that was cut off asks again as the SDK does: at the `Location` that he has,
else with the same request, under its `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Self

import httpx
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError, ConflictError, NotFoundError
from served_words import ToldRun, Words

PATIENCE: Final = 90.0  # seconds after which a client that is told nothing says so
PAUSE: Final = 0.05  # seconds before a client asks again
UNSURE: Final = (httpx.TransportError, httpx.RemoteProtocolError, OSError)
"""After these nobody knows what became of a request."""
GONE: Final = (APIStatusError, httpx.HTTPStatusError)
SHARED: Final = 3  # threads on which everybody starts runs
STRATEGIES: Final = ("enqueue", "interrupt", "rollback", "reject")
STOPS_OTHERS: Final = frozenset({"interrupt", "rollback"})


class Load:
    """All clients: `async with Load(url, hook) as load`; `stop` lets them come to their ends."""

    def __init__(self, url: str, hook: str, *, seed: int, clients: int = 1) -> None:
        self.url = url
        self.words = Words()
        self.done: Counter[str] = Counter()
        self._hook = hook
        self._random = random.Random(seed)
        self._clients = clients
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._shared = [_new_id() for _ in range(SHARED)]

    @property
    def _kinds(self) -> dict[str, Callable[[LangGraphClient, random.Random], Awaitable[None]]]:
        return {
            "waits": self._wait,
            "waits for nothing kept": self._wait_stateless,
            "follows, resumable": self._follow_resumable,
            "follows": self._follow,
            "background": self._background,
            "busy thread": self._on_busy_thread,
            "cancels": self._cancel,
            "answers": self._answer,
            "counts": self._count,
            "threads": self._threads,
            "items": self._items,
            "bare": self._bare,
        }

    async def __aenter__(self) -> Self:
        for number in range(self._clients):
            client = await self._stack.enter_async_context(get_client(url=self.url, api_key=None, timeout=PATIENCE))
            for kind, turn in self._kinds.items():
                chance = random.Random(self._random.random())
                task = asyncio.create_task(self._go_on(kind, turn, client, chance), name=f"{kind} {number}")
                self._tasks.append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def until_all_were_here(self) -> None:
        """Wait until every client has got to his end once, and an item is there."""
        async with asyncio.timeout(PATIENCE):
            while self._kinds.keys() - self.done.keys() or not any(self.words.items.values()):
                await asyncio.sleep(PAUSE)

    async def stop(self) -> None:
        """Let every client come to the end of what he does."""
        self._stopping = True
        _, hanging = await asyncio.wait(self._tasks, timeout=PATIENCE)
        self.words.wrong += [f"client {task.get_name()} hangs" for task in hanging]

    async def _go_on(self, kind: str, turn: Any, client: LangGraphClient, chance: random.Random) -> None:
        while not self._stopping:
            try:
                await turn(client, chance)
                self.done[kind] += 1
            except TimeoutError as exc:
                self.words.wrong.append(f"a client that {kind} was told nothing for {PATIENCE:g} s: {exc}")
            except (APIStatusError, httpx.HTTPStatusError) as exc:
                self.words.wrong.append(f"a client that {kind} was refused: {exc!r} {getattr(exc, 'body', '')}")
                await asyncio.sleep(PAUSE)

    async def _surely[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, from a server that may be away; one that says it cannot now is asked again."""
        refusals: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        return await ask()
                    except (*UNSURE, *GONE) as exc:
                        answer = getattr(exc, "response", None)
                        if answer is not None and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                            raise
                        refusals.append(f"{time.monotonic():.1f} {exc!r}"[:80])
                        await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise TimeoutError(
                f"{len(refusals)} refusals, the last {refusals[-3:]} until {time.monotonic():.1f}"
            ) from None

    def _told(self, run_id: str, agent: str, thread_id: str | None, **more: Any) -> None:
        known = self.words.runs.setdefault(run_id, ToldRun(run_id, thread_id, agent))
        for name, value in more.items():
            setattr(known, name, value)

    async def _start(
        self,
        client: LangGraphClient,
        thread_id: str | None,
        agent: str,
        input: Any,
        *,
        webhook: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """A run in the background, which is one run however often the request is made."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        hook = self._hook if webhook else None
        options = {"if_not_exists": None if thread_id is None else "create", "headers": key, "webhook": hook, **more}

        async def ask() -> dict[str, Any]:
            return dict(await client.runs.create(thread_id, agent, input=input, **options))

        run = await self._surely(ask)
        if webhook:  # as one does who has not got the answer
            self.words.asked_again.append((run["run_id"], (await self._surely(ask))["run_id"]))
        stateless = thread_id is None and more.get("on_completion") != "keep"
        self._told(run["run_id"], agent, run["thread_id"], stateless=stateless, webhook=webhook)
        return run

    async def _join(self, client: LangGraphClient, run: dict[str, Any]) -> Any:
        answer = await self._surely(lambda: client.runs.join(run["thread_id"], run["run_id"]))
        self.words.answers[run["run_id"]] = answer
        return answer

    async def _waited(
        self, client: LangGraphClient, thread_id: str | None, agent: str, input: Any, **more: Any
    ) -> tuple[str, Any]:
        """Start a run and wait for it in one request; its id, and what was told."""
        key, named = {"Idempotency-Key": uuid.uuid4().hex}, set[str]()

        def note(run: Any) -> None:
            named.add(run["run_id"])
            self._told(run["run_id"], agent, thread_id, stateless=thread_id is None)

        async def ask() -> Any:
            options = {"headers": key, "on_run_created": note, "raise_error": False, **more}
            return await client.runs.wait(thread_id, agent, input=input, **options)

        answer = await self._surely(ask)
        if len(named) != 1:
            self.words.wrong.append(f"one request has made the runs {named}")
        run_id = named.pop()
        self.words.answers[run_id] = answer
        return run_id, answer

    async def _wait(self, client: LangGraphClient, chance: random.Random) -> None:
        thread_id = _new_id()
        agent = chance.choice(["talks", "talks", "fails"])
        work = _work(chance)
        run_id, _ = await self._waited(client, thread_id, agent, work, if_not_exists="create")
        if agent == "talks":
            self.words.tokens[run_id] = work["token"]

    async def _wait_stateless(self, client: LangGraphClient, chance: random.Random) -> None:
        work = _work(chance)
        try:
            run_id, _ = await self._waited(client, None, "talks", work)
        except GONE as exc:  # the server was killed after the end of the run, and before it was told
            if not _is_gone(exc):
                raise
        else:
            self.words.tokens[run_id] = work["token"]

    async def _follow_resumable(self, client: LangGraphClient, chance: random.Random) -> None:
        await self._followed(client, chance, stream_resumable=True)

    async def _follow(self, client: LangGraphClient, chance: random.Random) -> None:
        await self._followed(client, chance, stream_resumable=False)

    async def _followed(self, client: LangGraphClient, chance: random.Random, **more: Any) -> None:
        """Follow a run to its end, through the reconnections of the SDK."""
        thread_id = chance.choice([None, _new_id()])
        keeps = {"on_completion": None} if thread_id is None else {"if_not_exists": "create"}
        run = await self._start(
            client, thread_id, "talks", _work(chance, parts=20), stream_mode=["custom", "values"], **keeps, **more
        )
        run_id = run["run_id"]
        numbers = self.words.followed.setdefault(run_id, [])

        async def follow() -> None:
            numbers.clear()
            async for part in client.runs.join_stream(run["thread_id"], run_id):
                if part.event == "custom":
                    numbers.append(part.data["number"])
                elif part.event in {"end", "error"}:
                    self.words.ends[run_id] = (part.event, part.data)

        await self._surely(follow)
        if run_id not in self.words.ends:
            self.words.wrong.append(f"who followed run {run_id} was not told its end")

    async def _background(self, client: LangGraphClient, chance: random.Random) -> None:
        agent = chance.choice(["talks", "tries", "fails"])
        keeps = {"on_completion": chance.choice([None, "keep"])}
        run = await self._start(client, None, agent, _work(chance), webhook=True, **keeps)
        try:
            await self._join(client, run)
        except GONE as exc:  # it ended before anybody asked
            if keeps["on_completion"] == "keep" or not _is_gone(exc):
                raise

    async def _on_busy_thread(self, client: LangGraphClient, chance: random.Random) -> None:
        """Several runs at once on a thread that others use as well."""
        thread_id, begun = chance.choice(self._shared), []
        for _ in range(chance.randint(1, 4)):
            strategy = chance.choice(STRATEGIES)
            if strategy in STOPS_OTHERS:
                # Whatever is on the thread now, or may have come just before, may be stopped.
                for told in self.words.runs.values():
                    told.cancelled |= told.thread_id == thread_id
            try:
                run = await self._start(
                    client,
                    thread_id,
                    "talks",
                    _work(chance),
                    multitask_strategy=strategy,
                    webhook=chance.random() < 0.5,
                )
            except ConflictError:
                continue
            if strategy == "enqueue":
                begun.append(run)
            self.words.runs[run["run_id"]].cancelled = True  # another client may stop it at any time
        for run in begun:
            try:
                await self._surely(lambda run=run: client.runs.join(thread_id, run["run_id"]))
            except GONE as exc:  # rolled back
                if not _is_gone(exc):
                    raise

    async def _cancel(self, client: LangGraphClient, chance: random.Random) -> None:
        run = await self._start(client, _new_id(), "talks", _work(chance, parts=100))
        self.words.runs[run["run_id"]].cancelled = True
        place = run["thread_id"], run["run_id"]
        action: Any = chance.choice(["interrupt", "rollback"])
        wait = chance.random() < 0.5
        await asyncio.sleep(chance.random() * 0.1)
        try:
            await self._surely(lambda: client.runs.cancel(*place, wait=wait, action=action))
            await self._surely(lambda: client.runs.join(*place))
        except GONE as exc:
            if action != "rollback" or not _is_gone(exc):
                raise

    async def _answer(self, client: LangGraphClient, chance: random.Random) -> None:
        """A run that asks, and one that brings the answer."""
        agent, thread_id = chance.choice(["asks", "pauses"]), _new_id()
        _, asked = await self._waited(client, thread_id, agent, {"token": "question"}, if_not_exists="create")
        if "__interrupt__" not in (asked or {}):  # the server was killed before it asked
            return
        run_id, _ = await self._waited(client, thread_id, agent, None, command={"resume": "surely"})
        self.words.tokens[run_id] = "surely"

    async def _count(self, client: LangGraphClient, chance: random.Random) -> None:
        """Several runs of a graph on one thread, whose values grow by each that succeeds."""
        thread_id = _new_id()
        acknowledged = self.words.graph_tokens.setdefault(thread_id, [])
        for _ in range(3):
            token = uuid.uuid4().hex
            _, answer = await self._waited(client, thread_id, "counts", {"token": token}, if_not_exists="create")
            if "__error__" in answer:
                continue  # its first step may be kept
            if [one for one in answer["tokens"] if one in {*acknowledged, token}] != [*acknowledged, token]:
                self.words.wrong.append(f"graph thread {thread_id} has {answer} after {acknowledged} and {token}")
            acknowledged.append(token)

    async def _threads(self, client: LangGraphClient, chance: random.Random) -> None:
        thread_id, threads = _new_id(), client.threads
        metadata: dict[str, Any] = {"made": 1}
        await self._surely(lambda: threads.create(thread_id=thread_id, metadata=metadata, if_exists="do_nothing"))
        self.words.threads[thread_id] = dict(metadata)
        for number in range(3):
            await self._surely(lambda number=number: threads.update(thread_id, metadata={f"n{number}": number}))
            self.words.threads[thread_id][f"n{number}"] = number
        if chance.random() < 0.5:
            self.words.unsure.add(thread_id)
            with suppress(NotFoundError):  # it was removed, and the answer was lost
                await self._surely(lambda: threads.delete(thread_id))
            self.words.unsure.discard(thread_id)
            self.words.deleted.add(thread_id)

    async def _items(self, client: LangGraphClient, chance: random.Random) -> None:
        store, items = client.store, self.words.items
        key = f"{chance.choice('abcdefgh')}-{id(chance)}"
        value = {"is": uuid.uuid4().hex}
        items.pop(key, None)
        if chance.random() < 0.3:
            await self._surely(lambda: store.delete_item(["crash"], key=key))
            items[key] = None
            return
        await self._surely(lambda: store.put_item(["crash"], key=key, value=value))
        items[key] = value
        found = await self._surely(lambda: store.get_item(["crash"], key=key))
        if found is None or found["value"] != value:
            self.words.wrong.append(f"item {key} was put as {value}, and is {found}")

    async def _bare(self, client: LangGraphClient, chance: random.Random) -> None:
        """A client without a library, who hangs up at any byte of the answer, or leaves his request unfinished."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        body = json.dumps({"assistant_id": "talks", "input": _work(chance), "stream_mode": "custom"}).encode()
        path = chance.choice(["/runs", "/runs/wait", "/runs/stream"])
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(PAUSE)
            return
        try:
            writer.write(request[: chance.choice([10, len(request) - 5, len(request), len(request)])])
            async with asyncio.timeout(chance.random() * 0.3):
                answer = await reader.readuntil(b"\r\n\r\n")
                for line in answer.decode("latin-1").split("\r\n"):
                    name, _, value = line.partition(": ")
                    if name.lower() == "content-location":
                        self._told(value.rpartition("/")[2], "talks", None, stateless=True)
                await reader.read(chance.randint(1, 500))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


def _is_gone(exc: Any) -> bool:
    return bool(exc.response.status_code == httpx.codes.NOT_FOUND)


def _work(chance: random.Random, parts: int = 5) -> dict[str, Any]:
    return {"parts": chance.randint(0, parts), "pause": chance.choice([0, 0.01, 0.05]), "token": uuid.uuid4().hex}


def _new_id() -> str:
    return str(uuid.uuid4())
