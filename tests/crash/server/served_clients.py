"""What the clients of a server do, a turn each: they ask until they know, and note what they were told.

A client that was cut off asks again as the SDK does: at the `Location` if he has one, else with the same request, under
its `Idempotency-Key`; he asks the next server, if there are several.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final

import httpx
from fleet_clients import Balanced
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError, ConflictError, NotFoundError
from told_words import Words

PAUSE: Final = 0.05  # seconds before a client asks again
GONE: Final = (APIStatusError, httpx.HTTPStatusError)
STRATEGIES: Final = ("enqueue", "interrupt", "rollback", "reject")
STOPS_OTHERS: Final = frozenset({"interrupt", "rollback"})

type Turn = Callable[[Client], Awaitable[None]]


class Client:
    """One client, of the kind that its turns are.

    Args:
        balanced: how he asks.
        words: where he notes what he is told.
        chance: decides what he does.
        hook: the address that is told the ends of some of his runs.
        shared: threads that other clients use as well.
    """

    KINDS: ClassVar[Mapping[str, Turn]]

    def __init__(
        self, balanced: Balanced, words: Words, chance: random.Random, *, hook: str, shared: Sequence[str]
    ) -> None:
        self._balanced = balanced
        self._words = words
        self._chance = chance
        self._hook = hook
        self._shared = shared

    async def wait(self) -> None:
        """Start a run and wait for it in one request."""
        agent = self._chance.choice(["talks", "talks", "fails"])
        work = self._work()
        await self._waited(new_id(), agent, work, token=work["token"], if_not_exists="create")

    async def wait_stateless(self) -> None:
        """Do the same with a run on a thread that nobody keeps."""
        work = self._work()
        with unless_gone():  # the server was killed after the run's end, before it was told
            await self._waited(None, "talks", work, token=work["token"])

    async def follow_resumable(self) -> None:
        """Follow a run whose output is kept for clients that come back."""
        await self._followed(stream_resumable=True)

    async def follow(self) -> None:
        """Follow a run whose output is not kept."""
        await self._followed(stream_resumable=False)

    async def background(self) -> None:
        """Start a run whose end is told to a receiver, and ask how it ended."""
        agent = self._chance.choice(["talks", "tries", "fails"])
        keeps = {"on_completion": self._chance.choice([None, "keep"])}
        run = await self._start(None, agent, self._work(), webhook=True, **keeps)
        with unless_gone(keeps["on_completion"] != "keep"):  # it ended before anybody asked
            await self._join(run)

    async def on_busy_thread(self) -> None:
        """Start several runs at once on a thread that others use as well."""
        thread_id, begun = self._chance.choice(self._shared), []
        for _ in range(self._chance.randint(1, 4)):
            strategy = self._chance.choice(STRATEGIES)
            if strategy in STOPS_OTHERS:
                # Whatever is on the thread now, or may have come just before, may be stopped.
                for asked in self._words.asked.values():
                    if asked.thread_id == thread_id and not asked.may_be_cancelled:
                        self._words.tell("run", run_id=asked.run_id, may_be_cancelled=True)
            webhook = self._chance.random() < 0.5
            try:
                run = await self._start(
                    thread_id,
                    "talks",
                    self._work(),
                    webhook=webhook,
                    may_be_cancelled=True,  # another client may stop it at any time
                    multitask_strategy=strategy,
                )
            except ConflictError:
                continue
            if strategy == "enqueue":
                begun.append(run["run_id"])
        for run_id in begun:
            with unless_gone():  # rolled back
                await self._balanced.surely(lambda client, run_id=run_id: client.runs.join(thread_id, run_id))  # type: ignore[misc]

    async def cancel(self) -> None:
        """Start a run and change one's mind."""
        run = await self._start(new_id(), "talks", self._work(100), may_be_cancelled=True)
        place = run["thread_id"], run["run_id"]
        action: Any = self._chance.choice(["interrupt", "rollback"])
        wait = self._chance.random() < 0.5
        await asyncio.sleep(self._chance.random() * 0.1)
        with unless_gone(action == "rollback"):
            await self._balanced.surely(lambda client: client.runs.cancel(*place, wait=wait, action=action))
            await self._balanced.surely(lambda client: client.runs.join(*place))

    async def answer(self) -> None:
        """Start a run that asks, and one that brings the answer."""
        agent, thread_id = self._chance.choice(["asks", "pauses"]), new_id()
        _, asked = await self._waited(thread_id, agent, {"token": "question"}, if_not_exists="create")
        if "__interrupt__" in (asked or {}):  # else the server was killed before it asked
            await self._waited(thread_id, agent, None, token="surely", command={"resume": "surely"})

    async def count(self) -> None:
        """Start several runs of a graph on one thread, whose values grow with each that succeeds."""
        thread_id, acknowledged = new_id(), list[str]()
        for _ in range(3):
            token = uuid.uuid4().hex
            _, answer = await self._waited(thread_id, "counts", {"token": token}, if_not_exists="create")
            if "__error__" in answer:
                continue  # its first step may be kept
            if [one for one in answer["tokens"] if one in {*acknowledged, token}] != [*acknowledged, token]:
                self._complain(f"graph thread {thread_id} has {answer} after {acknowledged} and {token}")
            acknowledged.append(token)
            self._words.tell("graph", thread_id=thread_id, token=token)

    async def threads(self) -> None:
        """Make a thread, change it, and perhaps remove it."""
        thread_id, metadata = new_id(), {"made": 1}
        surely = self._balanced.surely
        await surely(
            lambda client: client.threads.create(thread_id=thread_id, metadata=metadata, if_exists="do_nothing")
        )
        self._words.tell("thread", thread_id=thread_id, metadata=metadata)
        for number in range(3):
            change = {f"n{number}": number}
            await surely(lambda client, change=change: client.threads.update(thread_id, metadata=change))  # type: ignore[misc]
            self._words.tell("thread", thread_id=thread_id, metadata=change)
        if self._chance.random() < 0.5:
            await self._remove(thread_id)

    async def items(self) -> None:
        """Put, get and remove items."""
        surely = self._balanced.surely
        key = f"{self._chance.choice('abcdefgh')}-{id(self._chance)}"
        value = {"is": uuid.uuid4().hex}
        self._words.tell("change item", key=key)
        if self._chance.random() < 0.3:
            await surely(lambda client: client.store.delete_item(["crash"], key=key))
            self._words.tell("item", key=key, value=None)
            return
        await surely(lambda client: client.store.put_item(["crash"], key=key, value=value))
        self._words.tell("item", key=key, value=value)
        found = await surely(lambda client: client.store.get_item(["crash"], key=key))
        if found is None or found["value"] != value:
            self._complain(f"item {key} was put as {value}, and is {found}")

    async def bare(self) -> None:
        """Be a client without a library, who hangs up at any byte of the answer, or leaves his request unfinished."""
        body = json.dumps({"assistant_id": "talks", "input": self._work(), "stream_mode": "custom"}).encode()
        path = self._chance.choice(["/runs", "/runs/wait", "/runs/stream"])
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        server = self._balanced.balancer.server
        try:
            reader, writer = await asyncio.open_connection(server.host, server.port)
        except OSError:
            await asyncio.sleep(PAUSE)
            return
        try:
            writer.write(request[: self._chance.choice([10, len(request) - 5, len(request), len(request)])])
            async with asyncio.timeout(self._chance.random() * 0.3):
                answer = await reader.readuntil(b"\r\n\r\n")
                for line in answer.decode("latin-1").split("\r\n"):
                    name, _, value = line.partition(": ")
                    if name.lower() == "content-location":
                        self._told(value.rpartition("/")[2], "talks", None, stateless=True)
                await reader.read(self._chance.randint(1, 500))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _start(
        self,
        thread_id: str | None,
        agent: str,
        input: Any,
        *,
        webhook: bool = False,
        may_be_cancelled: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """Start a background run, which is one run however often the request is made."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        hook = self._hook if webhook else None
        options = {"if_not_exists": None if thread_id is None else "create", "headers": key, "webhook": hook, **more}

        async def ask(client: LangGraphClient) -> dict[str, Any]:
            return dict(await client.runs.create(thread_id, agent, input=input, **options))

        run = await self._balanced.surely(ask)
        stateless = thread_id is None and more.get("on_completion") != "keep"
        facts = {"stateless": stateless, "webhook": webhook, "may_be_cancelled": may_be_cancelled}
        self._told(run["run_id"], agent, run["thread_id"], **facts)
        if webhook:  # as a client that got no answer does
            again = await self._balanced.surely(ask)
            self._words.tell("again", first=run["run_id"], second=again["run_id"])
        return run

    async def _join(self, run: Mapping[str, Any]) -> Any:
        answer = await self._balanced.surely(lambda client: client.runs.join(run["thread_id"], run["run_id"]))
        self._words.tell("answer", run_id=run["run_id"], answer=answer)
        return answer

    async def _waited(
        self, thread_id: str | None, agent: str, input: Any, *, token: str = "", **more: Any
    ) -> tuple[str, Any]:
        """Start a run and wait for it in one request; returns its id, and what was told."""
        key, named = {"Idempotency-Key": uuid.uuid4().hex}, set[str]()

        def note(run: Any) -> None:
            named.add(run["run_id"])
            self._told(run["run_id"], agent, thread_id, stateless=thread_id is None, token=token)

        async def ask(client: LangGraphClient) -> Any:
            options = {"headers": key, "on_run_created": note, "raise_error": False, **more}
            return await client.runs.wait(thread_id, agent, input=input, **options)

        answer = await self._balanced.surely(ask)
        if len(named) != 1:
            self._complain(f"one request has made the runs {named}")
        run_id = named.pop()
        self._words.tell("answer", run_id=run_id, answer=answer)
        return run_id, answer

    async def _followed(self, **more: Any) -> None:
        """Follow a run to its end, through the reconnections of the SDK."""
        thread_id = self._chance.choice([None, new_id()])
        keeps = {"on_completion": None} if thread_id is None else {"if_not_exists": "create"}
        run = await self._start(thread_id, "talks", self._work(20), stream_mode=["custom", "values"], **keeps, **more)
        run_id = run["run_id"]

        async def follow(client: LangGraphClient) -> bool:
            self._words.tell("follow", run_id=run_id)
            has_ended = False
            async for part in client.runs.join_stream(run["thread_id"], run_id):
                if part.event == "custom":
                    self._words.tell("part", run_id=run_id, number=part.data["number"])
                elif part.event in {"end", "error"}:
                    self._words.tell("end", run_id=run_id, event=part.event, data=part.data)
                    has_ended = True
            return has_ended

        if not await self._balanced.surely(follow):
            self._complain(f"who followed run {run_id} was not told its end")

    async def _remove(self, thread_id: str, positions: Sequence[int] = ()) -> None:
        """Remove a thread that has events at these positions."""
        self._words.tell("delete", thread_id=thread_id, positions=[*positions])
        with suppress(NotFoundError):  # it was removed, and the answer was lost
            await self._balanced.surely(lambda client: client.threads.delete(thread_id))
        self._words.tell("deleted", thread_id=thread_id)

    def _told(self, run_id: str, agent: str, thread_id: str | None, **more: Any) -> None:
        self._words.tell("run", run_id=run_id, agent=agent, thread_id=thread_id, may_fail=True, **more)

    def _complain(self, why: str) -> None:
        self._words.tell("wrong", why=why)

    def _work(self, parts: int = 5) -> dict[str, Any]:
        number, pause = self._chance.randint(0, parts), self._chance.choice([0, 0.01, 0.05])
        return {"parts": number, "pause": pause, "token": uuid.uuid4().hex}


Client.KINDS = {
    "waits": Client.wait,
    "waits for nothing kept": Client.wait_stateless,
    "follows, resumable": Client.follow_resumable,
    "follows": Client.follow,
    "background": Client.background,
    "busy thread": Client.on_busy_thread,
    "cancels": Client.cancel,
    "answers": Client.answer,
    "counts": Client.count,
    "threads": Client.threads,
    "items": Client.items,
    "bare": Client.bare,
}


@contextmanager
def unless_gone(may_be: bool = True) -> Iterator[None]:
    """Where a run may be gone before anybody asks, "not found" is an answer; `may_be` says whether it may."""
    try:
        yield
    except GONE as exc:
        if not may_be or exc.response.status_code != httpx.codes.NOT_FOUND:
            raise


def new_id() -> str:
    """A new id for a thread."""
    return str(uuid.uuid4())
