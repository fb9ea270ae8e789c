"""The command `workers`: shows the processes of a fleet and what waits for them, and has workers leave."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from trackside.app.cli.actions.asking import agrees, not_done
from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import count, one_line
from trackside.app.cli.places import Place, in_records, when_there
from trackside.app.cli.records.fleet import EXECUTING, QueueNow, WorkerNow
from trackside.app.cli.stopping import ended_by_stop_signals, interrupt_on_stop_signals
from trackside.app.cli.views.fleet import print_duties, print_queue, print_workers
from trackside.app.cli.views.jsonlines import record_object
from trackside.app.cli.views.output import standard_error, standard_output
from trackside.harness.errors import TracksideError
from trackside.harness.types import JsonObject

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Records

_LOOK_SECONDS: Final = 0.5  # between two checks whether a worker has left: nothing announces that
_LEAST_OF_AN_END: Final = 6  # characters: anything shorter is more likely a typo than the end of an id
_UNDRAINED: Final = {
    "server": "a server, and takes no runs",
    "inline": "no worker of a fleet, and executes the runs that it lets in itself",
}


class UnknownWorkerError(TracksideError, LookupError):
    """No live worker here has the name or id {typed!r}, or an id that begins or ends with it; `trackside workers` lists them."""  # noqa: E501


class AmbiguousWorkerError(TracksideError, LookupError):
    """{typed!r} is the name, or a part of the id, of more than one worker: {found}; write more of its id."""


class NotDrainableError(TracksideError):
    """{name} is {what}: it ends when its process gets SIGTERM."""

    fault = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersOptions:
    """What was typed after `workers`."""

    workers: Sequence[str]
    place: Place
    json: bool

    def refuse(self, **given: bool) -> None:
        """Refuse options that mean nothing together with the others.

        Raises:
            ArgumentError: one was typed.
        """
        whys: Mapping[str, tuple[str, str]] = {
            "queue": ("--queue", "it only shows; leave it out to drain workers"),
            "workers": ("ID", "all of them are listed; to drain one, write `trackside workers drain ID`"),
            "yes": ("--yes", "there is nothing to confirm; it goes with `drain`"),
            "wait": ("--wait", "there is nothing to wait for; it goes with `drain`"),
        }
        for name, is_given in given.items():
            if is_given:
                option, why = whys[name]
                raise ArgumentError(name=option, why=why)


def show_workers(options: WorkersOptions) -> ExitCode:
    """Show the processes and, to a person, what waits for them."""
    now, console = datetime.now(UTC), standard_output()
    if options.json:
        found = in_records(options.place, lambda records: records.workers(), read_only=True)
        console.print_json_lines([record_object(worker) for worker in found])
        return ended(console)
    workers, queue = in_records(options.place, _read_all, read_only=True)
    if workers:
        print_workers(console, workers, now)
    else:
        console.print("No process looks after runs here.", style="dim")
    if any(pool.is_used for pool in queue.pools) or queue.unserved:
        console.print()
        print_queue(console, queue, now)
    return ended(console)


def show_queue(options: WorkersOptions) -> ExitCode:
    """Show what waits for workers, pool by pool, and which process does what for the whole fleet."""
    now, console = datetime.now(UTC), standard_output()
    workers, queue = in_records(options.place, _read_all, read_only=True)
    if options.json:
        console.print_json_lines([record_object(queue)])
        return ended(console)
    print_queue(console, queue, now)
    if queue.duties:
        console.print()
        print_duties(console, queue.duties, workers, now)
    return ended(console)


def drain(options: WorkersOptions, *, yes: bool, wait: bool) -> ExitCode:
    """Drain workers, if the person agrees; with `wait`, wait until they have left, or somebody presses Ctrl-C.

    Raises:
        UnknownWorkerError, AmbiguousWorkerError, NotDrainableError: one of them cannot be drained, and none was.
        ArgumentError: no worker was named, or there is nobody to ask.
    """
    if not options.workers:
        raise ArgumentError(name="ID", why="say which worker to drain; `trackside workers` lists them")
    interrupt_on_stop_signals()
    known = in_records(options.place, lambda records: records.workers(), read_only=True)
    chosen = {worker.worker_id: worker for worker in (_find(known, typed) for typed in options.workers)}
    left = [worker for worker in chosen.values() if not worker.draining]
    what = "; ".join(_told(worker) for worker in left)
    question = f"Drain {what}? Each takes no more runs, and ends when its current runs are over."
    if left and not agrees(question, yes=yes, would=f"{what} would be drained"):
        return not_done("No worker was drained.")
    stopped = asyncio.Event()

    async def ask(records: Records) -> dict[str, str]:
        asked = {worker.worker_id: await records.drain(worker.worker_id) for worker in chosen.values()}
        if wait:
            standard_error().print("Waiting until its runs are over; Ctrl-C stops waiting.", style="dim")
            return await _wait_until_left(records, chosen, stopped)
        return {id_: "draining" if was_there else "gone" for id_, was_there in asked.items()}

    states = in_records(options.place, ask)
    console = standard_output()
    for id_, state in states.items():
        if options.json:
            said: JsonObject = {"worker_id": id_, "name": chosen[id_].name, "state": state}
            console.print_json_lines([said])
        else:
            console.print(_said(chosen[id_], state), soft_wrap=True)
    code = ended(console)
    if stopped.is_set():
        return ExitCode.cancelled
    return ExitCode.error if "lost" in states.values() else code


def _find(workers: Sequence[WorkerNow], typed: str) -> WorkerNow:
    """The live worker that was named."""
    alive = [worker for worker in workers if worker.is_alive]
    named = [worker for worker in alive if typed in {worker.worker_id, worker.name}]
    begun = [worker for worker in alive if typed and worker.worker_id.startswith(typed)]
    end = typed.removeprefix("…")
    ended = [worker for worker in alive if len(end) >= _LEAST_OF_AN_END and worker.worker_id.endswith(end)]
    found = named or begun or ended
    if not found:
        raise UnknownWorkerError(typed=typed)
    executing = [worker for worker in found if worker.kind == EXECUTING]
    if not executing:
        raise NotDrainableError(name=found[0].name, what=_UNDRAINED[found[0].kind])
    if len(executing) > 1:
        raise AmbiguousWorkerError(typed=typed, found=", ".join(worker.worker_id for worker in executing))
    return executing[0]


async def _wait_until_left(records: Records, chosen: Mapping[str, WorkerNow], stopped: asyncio.Event) -> dict[str, str]:
    """Wait until they have left, or somebody presses Ctrl-C; returns what became of each."""
    states = dict.fromkeys(chosen, "draining")
    watching = asyncio.create_task(_watch(records, states), name="trackside-cli-drain")
    with ended_by_stop_signals(watching.cancel, stopped):
        await asyncio.wait({watching})
    if not watching.cancelled():
        watching.result()
    return states


async def _watch(records: Records, states: dict[str, str]) -> None:
    """Note of each worker that it has left, or is lost, until that is known of all, also while the records are away."""
    while "draining" in states.values():
        there = {worker.worker_id: worker for worker in await when_there(records.workers)}
        for id_, state in states.items():
            worker = there.get(id_)
            if state == "draining" and (worker is None or not worker.is_alive):
                states[id_] = "left" if worker is None else "lost"
        if "draining" in states.values():
            await asyncio.sleep(_LOOK_SECONDS)


def _told(worker: WorkerNow) -> str:
    runs = "no run" if not worker.running else count(worker.running, "run")
    return f"{one_line(worker.name)} ({worker.worker_id}), which executes {runs}"


def _said(worker: WorkerNow, state: str) -> str:
    name = one_line(worker.name)
    match state:
        case "draining":
            return f"{name} takes no more runs, and ends when its current runs are over."
        case "lost":
            return f"{name} shows no more signs of life; its runs are ended or taken over by others."
        case _:
            return f"{name} has left."


async def _read_all(records: Records) -> tuple[list[WorkerNow], QueueNow]:
    return await records.workers(), await records.queue()
