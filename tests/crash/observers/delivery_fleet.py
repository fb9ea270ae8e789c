"""Two processes that deliver and one that runs agents, on one database; they are killed, and others replace them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from time import monotonic, time_ns

from crash_children import Child, Children
from delivery_check import Counts, Event, Outcome, Promise, Sample, count_of, events_of, found_wrong, samples_in
from delivery_fates import FATES
from delivery_receivers import (
    Arrival,
    Endpoint,
    arrivals_in_jetstream,
    arrivals_in_valkey,
    is_refused,
)
from kept_server import KeptServer
from log_check import assert_whole, look_into
from nats_server import NatsServer
from valkey_server import ValkeyServer

ENDS = ("run_completed", "run_failed", "run_cancelled")
PROMISES: Mapping[str, Promise] = {
    "ends": Promise(types=frozenset(ENDS), may_park=is_refused),
    "posted": Promise(may_park=is_refused),
    "posted in order": Promise(in_order=True, may_park=is_refused),
    "nats": Promise(in_order=True, once=True),
    "valkey": Promise(in_order=True),
}
ENDPOINTS = ("ends", "posted", "posted in order")
LONGEST_LIFE = 3.0
"""Seconds after which a process that delivers nothing is killed, even if only because its receivers are away."""
A_WHILE = 40
"""How many events arrive at the endpoints before something happens to a broker, and while a broker does nothing."""
LONGEST_REST = 120.0
"""Seconds that one process alone may take to deliver what is left."""
WAYS = ("at random", "at random", "taken", "answered")
"""How a process that delivers is killed from outside, if it has no fate: at any moment, or by one of its receivers."""

_WEBHOOK = """
type = "webhook"
url = "{url}"
secret = "env:HOOK_SECRET"
allow_private_addresses = true
"""
_SETTINGS = f"""# trackside.toml
[[observers]]
name = "ends"
events = {json.dumps(ENDS)}
{{common}}
{{ends}}
[[observers]]
name = "posted"
{{common}}
{{posted}}
[[observers]]
name = "posted in order"
order = "run"
{{common}}
{{posted_in_order}}
[[observers]]
name = "nats"
type = "broker"
url = "{{nats}}"
stream = "{{place}}"
topic = "{{place}}.{{{{event_type}}}}"
{{common}}
[[observers]]
name = "valkey"
type = "broker"
url = "{{valkey}}"
topic = "{{place}}"
{{common}}
"""
_COMMON = """start = "beginning"
attempts = 3
longest_pause = 0.2
"""


class Brokers:
    """One server of each kind, with separate places for each test."""

    def __init__(self, nats: NatsServer, valkey: ValkeyServer) -> None:
        self.nats = nats
        self.valkey = valkey
        self._numbers = iter(range(1_000))

    def place(self) -> str:
        """A name for streams that nobody else has."""
        return f"runs-{next(self._numbers)}"


class Fleet:
    """The processes on one database, and the receivers that they tell.

    Args:
        url: the address of the database.
        folder: for `trackside.toml`, and for what the processes say.
        children: makes the processes.
        brokers: where events are published.
        seed: decides every choice.
    """

    def __init__(self, url: str, folder: Path, children: Children, brokers: Brokers, *, seed: int) -> None:
        self.url = url
        self.endpoints = {name: Endpoint(Random(seed + n)) for n, name in enumerate(ENDPOINTS)}
        self.kills: Counter[str] = Counter()
        """How many processes died, by the moment."""
        self.restarts = 0
        """How often a broker was stopped and started again."""
        self._folder = folder
        self._children = children
        self._brokers = brokers
        self._place = brokers.place()
        self._chance = Random(seed)
        self._crew: dict[Child, str | None] = {}
        """The processes that deliver, and their fates."""
        self._agents: Child | None = None
        self._troubles = self._endless_troubles()
        self._samples: dict[str, list[Sample]] = {name: [] for name in PROMISES}

    @property
    def deaths(self) -> int:
        """How many of the processes that delivered were killed."""
        return self.kills.total() - self.kills["agents"]

    def begin(self) -> None:
        """Have agents run, and their events delivered. The endpoints have to listen already."""
        hooks = {
            name.replace(" ", "_"): _WEBHOOK.format(url=endpoint.receiver.url)
            for name, endpoint in self.endpoints.items()
        }
        brokers = {"nats": self._brokers.nats.url, "valkey": self._brokers.valkey.url}
        settings = _SETTINGS.format(url=self.url, place=self._place, common=_COMMON, **brokers, **hooks)
        (self._folder / "trackside.toml").write_text(settings)
        self._run_agents()
        self._hire(self._chance.choice(FATES))
        self._hire(None)

    def lose(self, deaths: int, *, lives: Sequence[int]) -> None:
        """Have this many of the processes that deliver killed and replaced; now and then agents and brokers, too.

        Between two kills from outside, one of these numbers of events arrives at the endpoints.
        """
        until = self.deaths + deaths
        while self.deaths < until:
            self._kill_one(self._arrived + self._chance.choice(lives))
            self._bury()
            if (trouble := next(self._troubles)) is not None:
                trouble()

    def _endless_troubles(self) -> Iterator[Callable[[], object] | None]:
        """What else happens after each kill, in turn."""
        nats, valkey = (partial(self._restart, broker) for broker in (self._brokers.nats, self._brokers.valkey))
        return cycle([self._run_agents, nats, None, valkey, None])

    def _restart(self, broker: KeptServer) -> None:
        """Stop a broker properly, or with messages that it was sent and has not looked at; start it again."""
        self._wait_with(next(iter(self._crew)), self._arrived + A_WHILE)  # somebody has to be connected to it
        if self._chance.random() < 0.3:
            broker.restart("TERM")
        else:
            broker.freeze()
            self._wait_with(next(iter(self._crew)), self._arrived + A_WHILE)
            broker.restart("KILL")
        self.restarts += 1

    def end(self) -> None:
        """Let the agents end, and have one process alone deliver the rest."""
        assert self._agents is not None
        self._agents.finish()
        for child in self._crew:
            self._note_kill(child, "in the end")
        self._bury(replace=False)
        self._command("deliver", "--until-idle", codes=("0", "1"))  # 1: something is parked
        self._sample(None, time_ns())

    def check(self) -> dict[str, Counts]:
        """Check that everything is as promised; returns the numbers.

        Raises:
            AssertionError: it is not.
        """
        assert_whole(self.url)
        assert not any(endpoint.unsigned for endpoint in self.endpoints.values())
        events, outcomes = events_of(self.url), self._outcomes()
        wrong = [f"{name}: {what}" for name, what in self._wrong(events, outcomes)]
        assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:20]])
        for name in ENDPOINTS:
            assert self._shown_as_parked(name) == outcomes[name].samples[-1].parked
        return {name: count_of(PROMISES[name], events, outcome) for name, outcome in outcomes.items()}

    def _wrong(self, events: list[Event], outcomes: Mapping[str, Outcome]) -> Iterator[tuple[str, str]]:
        for name, outcome in outcomes.items():
            for what in found_wrong(PROMISES[name], events, outcome):
                yield name, what

    def _outcomes(self) -> dict[str, Outcome]:
        arrivals: dict[str, list[Arrival]] = {name: endpoint.arrivals for name, endpoint in self.endpoints.items()}
        arrivals["nats"] = asyncio.run(arrivals_in_jetstream(self._brokers.nats.url, self._place))
        arrivals["valkey"] = asyncio.run(arrivals_in_valkey(self._brokers.valkey.url, self._place))
        return {name: Outcome(arrivals=arrivals[name], samples=self._samples[name]) for name in PROMISES}

    def _shown_as_parked(self, name: str) -> frozenset[int]:
        shown = self._command("parked", name, "--json", "--limit", "100000")
        return frozenset(json.loads(line)["position"] for line in shown.split("\n") if line)

    def _command(self, *arguments: str, codes: Collection[str] = ("0",)) -> str:
        """What this command prints; it ends with one of these exit codes."""
        child = self._children.make("command", self.url, folder=str(self._folder), arguments=arguments)
        child.wait_for("dead", patience=LONGEST_REST)
        printed = (self._folder / child.last["prints"]).read_text()
        assert child.last.get("left") in codes, printed
        return printed

    def _run_agents(self) -> None:
        """Have a process run agents, after killing the one that does."""
        if self._agents is not None:
            self.kills["agents"] += self._agents.kill()
        self._agents = self._children.make("agents", self.url)
        assert self._agents.wait_for("ready")
        assert self._agents.exit_code is None

    def _hire(self, fate: str | None) -> None:
        child = self._children.make("command", self.url, folder=str(self._folder), arguments=["deliver"], fate=fate)
        assert child.wait_for("born")
        self._crew[child] = fate

    def _kill_one(self, arrived: int) -> None:
        """Wait for a process to meet its fate, or kill one that has something to deliver, once so much has arrived."""
        victim = self._chance.choice(self._busy() or [*self._crew])
        self._wait_with(victim, arrived)
        if victim.exit_code is None:
            self._kill(victim, self._chance.choice(WAYS))

    @property
    def _arrived(self) -> int:
        return sum(len(endpoint.arrivals) for endpoint in self.endpoints.values())

    def _wait_with(self, victim: Child, arrived: int) -> None:
        """Wait until so much has arrived, or the victim has met its fate; not for ever."""
        until = monotonic() + LONGEST_LIFE
        while victim.exit_code is None and self._arrived < arrived and monotonic() < until:
            victim.wait_for("dead", patience=0.02)

    def _kill(self, victim: Child, way: str) -> None:
        if way == "at random":
            self._note_kill(victim, way)
            return
        endpoint = self._chance.choice([*self.endpoints.values()])
        endpoint.killed_at, endpoint.to_kill = None, (victim.pid, way)
        victim.wait_for("dead", patience=2.0)
        endpoint.to_kill = None
        if victim.exit_code is None:
            self._note_kill(victim, "at random")
        elif endpoint.killed_at is not None:
            victim.last["killed"] = f"{endpoint.killed_at} {way}"

    def _note_kill(self, victim: Child, way: str) -> None:
        with suppress(ProcessLookupError):  # its own fate was faster
            os.kill(victim.pid, signal.SIGKILL)
            victim.last["killed"] = f"{time_ns()} {way}"
        victim.wait()

    def _busy(self) -> list[Child]:
        """The processes that have a subscription."""
        with look_into(self.url) as database:
            holders = {row[0] for row in database.execute("SELECT consumer FROM subscriptions").fetchall()}
        return [child for child in self._crew if _consumer(child) in holders]

    def _bury(self, *, replace: bool = True) -> None:
        """Sample how the subscriptions of the dead stand, have their leases end, and put others in their places."""
        for child in [child for child in self._crew if child.exit_code is not None]:
            assert child.exit_code == -signal.SIGKILL, (child.exit_code, child.last)
            fate = self._crew.pop(child)
            died_at, way = self._death(child, fate)
            self.kills[way] += 1
            self._sample(child, died_at)
            self._end_leases(child)
            if replace:
                self._hire(self._chance.choice([None, None, self._chance.choice(FATES)]))

    def _death(self, child: Child, fate: str | None) -> tuple[int, str]:
        if "killed" in child.last:
            at, way = child.last["killed"].split(" ", 1)
            return int(at), way
        # A process killed by a thread other than the event loop's does not say when; the test learns it soon enough.
        return int(child.last.get("dying", time_ns())), str(fate)

    def _sample(self, dead: Child | None, died_at: int) -> None:
        consumer = None if dead is None else _consumer(dead)
        for name, sample in samples_in(self.url, dead=consumer, died_at=died_at, now=time_ns).items():
            self._samples[name].append(sample)

    def _end_leases(self, dead: Child) -> None:
        """Act as if the time of its leases, half a minute, were up."""
        first, second = ("?", "?") if self.url.startswith("sqlite") else ("$1", "$2")
        update = f"UPDATE subscriptions SET lease_until = 0 WHERE consumer = {first} AND name = {second}"
        with look_into(self.url) as database:
            for name in PROMISES:  # one lock at a time: the living take theirs in their own order
                database.execute(update, (_consumer(dead), name))


def _consumer(child: Child) -> str:
    return f"{socket.gethostname()}:{child.pid}"
