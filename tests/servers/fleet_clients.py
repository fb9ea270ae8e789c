"""Clients of a fleet, as behind a balancer: LangGraph's SDK; a client whose server does not answer asks the next one.

    async with FleetClients(urls) as clients:
        …                     # kill something
        await clients.stop()  # each comes to the end of what he does
    assert_sound(database, journal, clients.words)

They use the agent `tries` of `fleet_agents`. Each knows the right answer, and goes on asking until he has one.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from traceback import format_exc
from typing import Any, Final, Self, override

import httpx
from fleet_check import LOST, Asked, Words
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError

AGENT: Final = "tries"
PATIENCE: Final = 60.0
"""Seconds after which a client that is told nothing says so."""
_PAUSE: Final = 0.1  # seconds before the next server is asked
_UNSURE: Final = (httpx.TransportError, OSError)
"""After these errors nobody knows what became of a request."""
_AWAY: Final = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})

type Run = dict[str, Any]


class Balancer(httpx.AsyncBaseTransport):
    """Sends requests to one of several servers, as a load balancer does: to the next one when that server is gone."""

    def __init__(self, urls: Sequence[str], first: int = 0) -> None:
        self.went_on = 0
        """How often a request went to the next server because one was gone."""
        self._servers = [httpx.URL(url) for url in urls]
        self._at = first % len(urls)
        self._inner = httpx.AsyncHTTPTransport()

    @property
    def server(self) -> httpx.URL:
        """The server to which it sends the next request."""
        return self._servers[self._at]

    def turn(self) -> None:
        """Send what comes to the next server."""
        self._at = (self._at + 1) % len(self._servers)

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for tries_left in reversed(range(len(self._servers))):
            server = self.server
            request.url = request.url.copy_with(host=server.host, port=server.port)
            request.headers["Host"] = server.netloc.decode("ascii")
            try:
                return await self._inner.handle_async_request(request)
            except httpx.ConnectError:
                self.turn()
                self.went_on += 1
                if not tries_left:
                    raise
        raise AssertionError("there is a server at least")

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()


class Balanced:
    """A client of several servers, until the end of an `async with`; it has `patience`, in seconds."""

    def __init__(self, urls: Sequence[str], first: int = 0, patience: float = PATIENCE) -> None:
        self.balancer = Balancer(urls, first)
        self._patience = patience
        http = httpx.AsyncClient(base_url="http://fleet", transport=self.balancer, timeout=patience)
        self.client = LangGraphClient(http)
        """LangGraph's client, unmodified: it does here what it does whenever it is cut off."""
        self._http = http

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def surely[T](self, ask: Callable[[LangGraphClient], Awaitable[T]]) -> T:
        """Ask until there is an answer, even where the library has given up.

        Raises:
            TimeoutError: there is none.
        """
        refusals: list[str] = []
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        return await ask(self.client)
                    except (*_UNSURE, APIStatusError, httpx.HTTPStatusError) as exc:
                        if not _is_away(exc):
                            raise
                        refusals.append(repr(exc)[:100])
                        self.balancer.turn()
                        self.balancer.went_on += 1
                        await asyncio.sleep(_PAUSE)
        except TimeoutError:
            raise TimeoutError(
                f"no answer in {self._patience:g} s; {len(refusals)} refusals: {refusals[-3:]}"
            ) from None


def _is_away(exc: BaseException) -> bool:
    response = getattr(exc, "response", None)
    return response is None or response.status_code in _AWAY


class FleetClients:
    """Keep runs coming while an `async with` block goes on.

    Args:
        urls: the addresses of the servers.
        each: how many clients there are of each kind.
        seed: decides what they do.
        pause: seconds between two actions of one client, on average.
        parts: how many numbers a run says at most, with `part_pause` seconds after each.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        each: int = 1,
        seed: int = 7,
        pause: float = 0.1,
        parts: int = 20,
        part_pause: float = 0.05,
    ) -> None:
        self.words = Words()
        self.done: Counter[str] = Counter()
        """What was done, by kind."""
        self.going: Counter[str] = Counter()
        """What is being done."""
        self.balanced: list[Balanced] = []
        self._urls = urls
        self._each = each
        self._random = random.Random(seed)
        self._pause = pause
        self._parts, self._part_pause = parts, part_pause
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    @property
    def went_on(self) -> int:
        """How often clients went on to another server."""
        return sum(one.balancer.went_on for one in self.balanced)

    async def __aenter__(self) -> Self:
        kinds: Mapping[str, Any] = {
            "wait": self._wait,
            "stream": self._stream,
            "join": self._join,
            "queue": self._queue,
            "cancel": self._cancel,
        }
        for number in range(self._each):
            for place, (kind, turn) in enumerate(kinds.items()):
                balanced = await self._stack.enter_async_context(Balanced(self._urls, number + place))
                self.balanced.append(balanced)
                chance = random.Random(self._random.random())
                going = self._go_on(kind, turn, balanced, chance)
                self._tasks.append(asyncio.create_task(going, name=f"client {kind} {number}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def stop(self) -> None:
        """Let each client finish what he is doing."""
        self._stopping.set()
        _, hanging = await asyncio.wait(self._tasks, timeout=2 * PATIENCE)
        self.words.wrong += [f"{task.get_name()} hangs" for task in hanging]

    async def _go_on(self, kind: str, turn: Any, balanced: Balanced, chance: random.Random) -> None:
        while not self._stopping.is_set():
            self.going[kind] += 1
            try:
                await turn(balanced, chance)
                self.done[kind] += 1
            except (TimeoutError, *_UNSURE, APIStatusError, httpx.HTTPStatusError) as exc:
                self.words.wrong.append(f"a client that wanted to {kind} got {exc!r} {getattr(exc, 'body', '')}")
            except Exception:  # whatever is wrong with him or with his answer: he does not vanish silently
                self.words.wrong.append(f"a client that wanted to {kind} crashed: {format_exc()}")
            self.going[kind] -= 1
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.expovariate(1 / self._pause)):
                    await self._stopping.wait()

    async def _start(self, balanced: Balanced, work: Mapping[str, Any], thread_id: str, **more: Any) -> Asked:
        """Start a background run, which is one run however often and wherever the request is made."""
        key = {"Idempotency-Key": uuid.uuid4().hex}

        async def ask(client: LangGraphClient) -> Run:
            options: Any = {"if_not_exists": "create", "headers": key, **more}
            return dict(await client.runs.create(thread_id, AGENT, input=work, **options))

        run = await balanced.surely(ask)
        return self._note(run["run_id"], thread_id, work["token"])

    def _note(self, run_id: str, thread_id: str, token: str) -> Asked:
        return self.words.asked.setdefault(run_id, Asked(run_id, thread_id, token))

    async def _answered(self, balanced: Balanced, asked: Asked, answer: Any = None) -> None:
        """Get the answer of a run, or of the attempt that goes on for it if its worker was lost."""
        run_id, last = asked.run_id, None
        if answer is None:
            answer = await balanced.surely(lambda client: client.runs.join(asked.thread, run_id))
        while _is_lost(answer) and run_id != last:
            runs: Any = await balanced.surely(lambda client: client.runs.list(asked.thread, limit=1))
            last, run_id = run_id, runs[0]["run_id"]
            answer = await balanced.surely(lambda client, id_=run_id: client.runs.join(asked.thread, id_))  # type: ignore[misc]
        asked.answer, asked.is_answered = answer, True

    async def _wait(self, balanced: Balanced, chance: random.Random) -> None:
        """Start a run and wait for it in one request; a client that is cut off makes the same request once more."""
        work, thread_id, key = self._work(chance), _new_id(), {"Idempotency-Key": uuid.uuid4().hex}
        named: set[str] = set()

        async def ask(client: LangGraphClient) -> Any:
            return await client.runs.wait(
                thread_id,
                AGENT,
                input=work,
                if_not_exists="create",
                headers=key,
                raise_error=False,
                on_run_created=lambda run: named.add(run["run_id"]),
            )

        answer = await balanced.surely(ask)
        if len(named) != 1:
            self.words.wrong.append(f"one request has made the runs {named}")
        asked = self._note(named.pop(), thread_id, work["token"])
        await self._answered(balanced, asked, answer)

    async def _join(self, balanced: Balanced, chance: random.Random) -> None:
        """Start a run at one server and wait for it at another."""
        asked = await self._start(balanced, self._work(chance), _new_id())
        balanced.balancer.turn()
        await self._answered(balanced, asked)

    async def _queue(self, balanced: Balanced, chance: random.Random) -> None:
        """Start several runs at once on one thread, which then come one after the other."""
        thread_id = _new_id()
        several = [await self._start(balanced, self._work(chance, parts=3), thread_id) for _ in range(3)]
        for asked in several:
            await balanced.surely(lambda client, run_id=asked.run_id: client.runs.join(thread_id, run_id))  # type: ignore[misc]

    async def _cancel(self, balanced: Balanced, chance: random.Random) -> None:
        """Start a run and change one's mind."""
        asked = await self._start(balanced, {**self._work(chance), "parts": 200}, _new_id())
        asked.may_be_cancelled = True
        await asyncio.sleep(chance.random() * 0.5)
        balanced.balancer.turn()
        await balanced.surely(lambda client: client.runs.cancel(asked.thread, asked.run_id))
        await balanced.surely(lambda client: client.runs.join(asked.thread, asked.run_id))

    async def _stream(self, balanced: Balanced, chance: random.Random) -> None:
        """Follow a run; a client that is cut off goes on after what he has, at the next server."""
        work = self._work(chance)
        asked = await self._start(balanced, work, _new_id(), stream_mode=["custom"], stream_resumable=True)
        follower = Follower(asked.thread, asked.run_id)
        end = await follower.follow(balanced)
        asked.followed.append(follower.numbers)
        asked.told_of_gaps += bool(follower.gaps)
        if end[0] == "end" and not follower.gaps:
            asked.parts = work["parts"]
        elif end[0] == "error" and end[1]["error"] != LOST:
            self.words.wrong.append(f"who followed run {asked.run_id} was told {end}")
        await self._answered(balanced, asked)

    def _work(self, chance: random.Random, parts: int | None = None) -> dict[str, Any]:
        number = chance.randint(1, parts or self._parts)
        return {"parts": number, "pause": self._part_pause, "token": uuid.uuid4().hex}


class Follower:
    """Somebody who follows a run to its end, on whichever server the end is told."""

    def __init__(self, thread_id: str, run_id: str) -> None:
        self.numbers: list[int] = []
        self.gaps: list[Any] = []
        """The gaps that he was told of."""
        self.end: tuple[str, Any] | None = None
        self._place = thread_id, run_id
        self._last_id: str | None = None

    async def follow(self, balanced: Balanced) -> tuple[str, Any]:
        """Follow until the end is told, wherever that is; returns the end's event and its data."""
        return await balanced.surely(self.follow_at)

    async def follow_at(self, client: LangGraphClient) -> tuple[str, Any]:
        """Follow at one server, as long as that lives.

        Raises:
            RemoteProtocolError: the stream has ended, and the run has not.
        """
        async for _ in self.parts(client):
            pass
        if self.end is None:
            raise httpx.RemoteProtocolError("the stream has ended, and the run has not")
        return self.end

    async def parts(self, client: LangGraphClient) -> AsyncIterator[Any]:
        """The parts that this server has, after those received before."""
        async for part in client.runs.join_stream(*self._place, stream_mode=["custom"], last_event_id=self._last_id):
            self._last_id = part.id or self._last_id
            match part.event:
                case "custom":
                    self.numbers.append(part.data["number"])
                case "gap":
                    self.gaps.append(part.data)
                case "end" | "error":
                    self.end = part.event, part.data
            yield part


def _is_lost(answer: Any) -> bool:
    failure = answer.get("__error__") if isinstance(answer, dict) else None
    return failure is not None and failure["error"] == LOST


def _new_id() -> str:
    return str(uuid.uuid4())
