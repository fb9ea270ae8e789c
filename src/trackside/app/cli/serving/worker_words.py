"""What a worker says about itself when it starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

from trackside._version import __version__
from trackside.app.cli.formatting import one_line
from trackside.app.cli.serving.process_words import ProcessWords
from trackside.app.cli.views.output import standard_error
from trackside.app.settings import Settings
from trackside.app.wiring import App
from trackside.harness.types import JsonObject


def say_all_is_well(settings: Settings) -> None:
    """Say what would be executed."""
    agents = ", ".join(sorted(settings.of_own_pools(settings.agents))) or "nothing, as no agent is"
    pools = ", ".join(settings.worker.pools)
    through = f"of {_pools(settings)} ({pools}) through {settings.engine.shown}"
    what = f"All is well: would execute {agents} {through} on {settings.database_shown}"
    standard_error().print(one_line(what), soft_wrap=True)


def left_out(settings: Settings, *, named: bool) -> Iterator[str]:
    """What to say about agents that a worker does not execute: the ones that were named, or all if it executes none."""
    own = settings.of_own_pools(settings.agents)
    if own and not named:
        return
    for agent in sorted({*settings.agents} - {*own}):
        pool = settings.pool_of(agent)
        yield f"runs of {agent} are in the pool {pool}, which this worker does not take: give it `--pool {pool}`"


class WorkerWords(ProcessWords):
    """Says what happens to a worker, while its `with` block lasts."""

    def say_ready(self, app: App, worker_id: str, sockets: Sequence[socket.socket]) -> None:
        """Say that the worker takes runs, which ones, and where it can be asked how it is."""
        facts = self._facts(worker_id, sockets[0] if sockets else None)
        self.show_ready(facts, list(self._lines(worker_id, facts["url"])))
        self.say_spooled(app)

    def say_what_is_wrong(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """Say what happens, unless everything is as it should be."""
        if level != "info":
            self.say(event, level=level, **facts)

    def _facts(self, worker_id: str, at: socket.socket | None) -> JsonObject:
        from trackside.app.server.sockets import place_of

        worker = self.settings.worker
        return {
            "worker_id": worker_id,
            **({"url": None, "host": None, "port": None} if at is None else place_of(at)),
            "database": self.settings.database_shown,
            "engine": self.settings.engine.shown,
            "agents": sorted(self.settings.of_own_pools(self.settings.agents)),
            "agents_version": self.settings.engine.agents_version,
            "pools": list(worker.pools),
            "concurrency": worker.concurrency,
            "isolation": worker.isolation,
        }

    def _lines(self, worker_id: str, url: object) -> Iterator[str]:
        settings, worker = self.settings, self.settings.worker
        version = settings.engine.agents_version
        limit = "" if worker.memory_limit is None else f" of at most {worker.memory_limit // 1_048_576:,} MiB"
        yield f"Trackside {__version__} executes runs as worker {worker_id}"
        yield f"  engine    {settings.engine.shown}"
        yield f"  database  {settings.database_shown}"
        own = ", ".join(sorted(settings.of_own_pools(settings.agents))) or "none of its pools: it executes nothing"
        yield f"  agents    {own}{'' if version is None else f' ({one_line(version)})'}"
        yield f"  {_pools(settings):<8}  {', '.join(worker.pools)}"
        yield f"  at once   {worker.concurrency:,}{f', each in a process{limit}' if worker.isolation == 'process' else ''}"
        if url is not None:
            yield f"  health    {url}/ready"
        yield "  Ctrl-C lets its runs end, and stops it"


def _pools(settings: Settings) -> str:
    return "pool" if len(settings.worker.pools) == 1 else "pools"
