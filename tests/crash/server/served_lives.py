"""The lives and deaths of a server: started on the same database and port each time, killed by chance or at a moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from fenced_journal import FencedJournal
from fleet_check import Words, assert_sound
from forking import Forkery
from langgraph_sdk import get_client
from log_check import look_into
from served_load import Load
from trackside_server import TracksideServer
from webhook_receiver import WebhookReceiver

CAST: Final = Path(__file__).with_name("served_cast.py")
SETTINGS: Final = f"""
[agents]
{"\n".join(f'{name} = "{CAST}:{name}"' for name in ("talks", "tries", "fails", "asks", "counts", "pauses"))}

[limits.tries]
max_attempts = 3

[server]
private_webhooks = true
log = false
"""
CRONS: Final = 3
REST_SECONDS: Final = 90.0
LONG_AGO: Final = "2026-01-01T00:00:{:02}.000000Z"
BY_CHANCE: Final = "by chance"

type Trouble = Callable[[TracksideServer, Load], Awaitable[None]]
"""What happens to a server while clients use it."""


class Lives:
    """What happens to one database and its servers.

    Args:
        url: the address of the database.
        folder: where the servers run.
        seed: decides all that is left to chance.
        forkery: forks the servers.
        others: servers beside the one that is killed.
        clients: how many there are of each kind.
        waits_for_leases: whether webhooks are told again only when the lease of the process that told them last is
            over, half a minute after its death; otherwise that time counts as over.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        *,
        seed: int,
        forkery: Forkery,
        others: int = 0,
        clients: int = 1,
        waits_for_leases: bool = False,
    ) -> None:
        print(f"seed {seed}")
        self.url = url
        self.deaths: dict[str, int] = {}
        self._folder = folder
        self._forkery = forkery
        self._chance = random.Random(seed)
        self._seed = seed
        self._clients = clients
        self._server = self._life()
        self._others = [self._life() for _ in range(others)]
        self._waits_for_leases = waits_for_leases
        self._times = 0
        self.seen: list[tuple[Words, list[Any]]] = []
        """What was checked in the end, one entry for each load: its words, and the bodies of all webhooks."""

    async def go_through(self, moments: Sequence[str] = (), *, trouble: Trouble | None = None) -> list[Load]:
        """Start the server, have it used and killed once for each of the moments, and check what is left in the end.

        `trouble` happens to it in between, and it has to survive that.
        """
        async with WebhookReceiver() as receiver:
            try:
                for server in (self._server, *self._others):
                    await asyncio.to_thread(server.start)
                loads = await self._use(moments, receiver.url, trouble)
                for server in (self._server, *self._others):
                    code = await asyncio.to_thread(server.terminate)
                    assert code == 0, server.log[-4_000:]
            finally:
                for server in (self._server, *self._others):
                    await asyncio.to_thread(server.kill)
            bodies = [json.loads(request.body) for request in receiver.requests]
        self._check(loads, bodies)
        return loads

    async def _use(self, moments: Sequence[str], hook: str, trouble: Trouble | None) -> list[Load]:
        crons = await self._make_crons()
        servers = (self._server, *self._others)
        loads = [
            Load([server.url], hook, seed=self._seed + n, clients=self._clients) for n, server in enumerate(servers)
        ]
        loads[0].words.crons = dict.fromkeys(crons, 0)
        try:
            for load in loads:
                await load.__aenter__()
            for moment in moments:
                await self._die(moment)
                await asyncio.to_thread(self._make_due, loads[0].words.crons)
                self._server = self._life(moment=self._next_moment(moments), port=self._server.port)
                await asyncio.to_thread(self._server.start)
            if trouble is not None:
                await trouble(self._server, loads[0])
            for load in loads:
                await load.stop()
            await self._rest()
            await self._go_on_with_graphs(loads)
            await self._rest()
        finally:
            for load in loads:
                await load.__aexit__()
        return loads

    def _next_moment(self, moments: Sequence[str]) -> str:
        lived = sum(self.deaths.values())
        return moments[lived] if lived < len(moments) else BY_CHANCE

    async def _die(self, moment: str) -> None:
        """Let the server be killed: by itself at that moment, or after a while in any case."""
        await asyncio.sleep(self._chance.uniform(0.3, 1.5) if moment == BY_CHANCE else 0)
        how = moment
        try:
            if moment == BY_CHANCE:
                await asyncio.to_thread(self._server.kill)
            else:
                await asyncio.to_thread(self._server.wait, 5.0)
        except RuntimeError:  # what would lead there did not happen in time
            how = BY_CHANCE
            await asyncio.to_thread(self._server.kill)
        assert self._server.exit_code == -9, self._server.log[-4_000:]
        self.deaths[how] = self.deaths.get(how, 0) + 1

    def _life(self, *, moment: str = BY_CHANCE, port: int = 0) -> TracksideServer:
        env = {"PYTHONPATH": os.pathsep.join(sys.path)}
        if moment != BY_CHANCE:
            env["SERVED_DIES"] = moment
        return TracksideServer(
            self._folder, database=self.url, settings=SETTINGS, env=env, port=port, forkery=self._forkery
        )

    async def _make_crons(self) -> list[str]:
        async with get_client(url=self._server.url, api_key=None) as client:
            made: list[Any] = [
                await client.crons.create("talks", schedule="0 0 1 1 *", input={"parts": 1, "pause": 0, "token": ""})
                for _ in range(CRONS)
            ]
        return [cron["cron_id"] for cron in made]

    def _make_due(self, crons: dict[str, int]) -> None:
        """Make each cron due, unless it is still due from the last time."""
        self._times += 1
        with look_into(self.url) as database:
            coming = dict(database.execute("SELECT cron_id, next_run_at FROM crons").fetchall())
            for cron_id in crons:
                if coming.get(cron_id, "") > LONG_AGO.format(59):
                    due = LONG_AGO.format(self._times % 59)
                    sql = f"UPDATE crons SET next_run_at = '{due}' WHERE cron_id = '{cron_id}'"
                    database.execute(sql)
                    crons[cron_id] += 1
            if not self._waits_for_leases:
                database.execute("UPDATE subscriptions SET lease_until = 0 WHERE lease_until > 0")

    async def _rest(self) -> None:
        """Wait until all that was let in has ended, and all that has to be told is told."""
        async with asyncio.timeout(REST_SECONDS):
            while await asyncio.to_thread(self._is_busy):
                await asyncio.sleep(0.1)

    def _is_busy(self) -> bool:
        with look_into(self.url) as database:
            active = database.execute("SELECT count(*) FROM active_runs").fetchone()[0]
            due = database.execute("SELECT count(*) FROM crons WHERE next_run_at < '2026-01-02'").fetchone()[0]
            last = database.execute("SELECT max(position) FROM events WHERE event_type LIKE 'run_%ed'").fetchone()[0]
            cursors = database.execute("SELECT cursor FROM subscriptions").fetchall()
        return bool(active or due or any(cursor < last for (cursor,) in cursors))

    async def _go_on_with_graphs(self, loads: Sequence[Load]) -> None:
        """Check that graphs' threads remember all that was acknowledged, and go on from there."""
        for load in loads:
            words = load.words
            async with get_client(url=load.urls[0], api_key=None) as client:
                for thread_id, tokens in words.graph_tokens.items():
                    if not tokens:
                        continue
                    state = await client.threads.get_state(thread_id)
                    kept = [one for one in state["values"]["tokens"] if one in tokens]
                    if kept != tokens:
                        words.wrong.append(f"graph thread {thread_id} has {kept}, and acknowledged were {tokens}")
                    answer: Any = await client.runs.wait(
                        thread_id, "counts", input={"token": "last"}, raise_error=False
                    )
                    if answer.get("tokens") != [*state["values"]["tokens"], "last"]:
                        words.wrong.append(f"graph thread {thread_id} does not go on: {answer} after {state['values']}")

    def _check(self, loads: Sequence[Load], bodies: list[Any]) -> None:
        for load in loads:
            print(f"{load.done.total()} turns of clients: {dict(load.done)}")
            print(f"{len(load.words.asked)} runs acknowledged, {len(bodies)} webhooks, {self.deaths}")
            self.seen.append((load.words, bodies))
            assert_sound(self.url, FencedJournal(self._folder), load.words, bodies)
