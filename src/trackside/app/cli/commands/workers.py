"""The commands about the workers of a fleet, and their options."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.commands import completing
from trackside.app.cli.commands.options import ApiKey, Database, Engine, Json, Url, Yes, only_here

app = typer.Typer()

_WORKS = "it starts a worker, which takes its runs from a database; --database and --engine say which"


@app.command()
def worker(
    agent: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT]…",
            help="path/file.py:name, package.module:name, or a name from the settings; only these are executed.",
            show_default="all that the settings name",
        ),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Take runs of this pool; may be repeated.", show_default="default"),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="N",
            help="Execute at most this many runs at once.",
            show_default="16, or one per processor if each run has a process",
        ),
    ] = None,
    engine: Engine = None,
    database: Database = None,
    port: Annotated[
        str | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            help="Answer /live, /ready and /metrics on this port; 0 is any free port.",
            show_default="it answers nothing",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The address to listen on for that; 0.0.0.0 is everywhere.",
            show_default="127.0.0.1",
        ),
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option(metavar="none|process", help="Whether each run has a process of its own.", show_default="none"),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="How much memory such a process may use, such as 512MB.",
            show_default="as much as there is",
        ),
    ] = None,
    drain: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="How long to wait for runs after SIGTERM; 5m and the like work, too.",
            show_default="runs.shutdown_grace",
        ),
    ] = None,
    url: Annotated[str | None, only_here(_WORKS, heeds_environment=False)] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would keep it from starting, or that all is well, and exit.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object to standard output once the worker takes runs.")
    ] = False,
) -> int:
    """Execute the runs that the servers of a fleet admit, until Ctrl-C, SIGTERM, or `trackside workers drain`.

    It then takes no more runs, lets those that it has end, and leaves. A second signal cancels them; a third does not wait.
    SIGHUP reloads it, with the settings and agents as they are by then.
    """
    from trackside.app.cli.serving import worker

    options = worker.WorkOptions(
        agents=tuple(agent or ()),
        pools=tuple(pool or ()),
        concurrency=concurrency,
        engine=engine,
        database=database,
        host=host,
        port=port,
        isolation=isolation,
        memory_limit=memory_limit,
        drain=drain,
        json=json,
    )
    if check and json:
        raise ArgumentError(
            name="--json", why="it is for who waits until it takes runs; with --check nothing is started"
        )
    return worker.check(options) if check else worker.work(options)


class WorkersAction(StrEnum):
    """What can be done with workers."""

    list = "list"
    drain = "drain"


@app.command()
def workers(
    action: Annotated[
        WorkersAction,
        typer.Argument(
            metavar="|".join(WorkersAction), help="Show the processes, or have workers finish their runs and leave."
        ),
    ] = WorkersAction.list,
    worker: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID|NAME]…",
            help="The workers to drain; the beginning or end of an id is enough.",
            autocompletion=completing.worker_ids,
        ),
    ] = None,
    queue: Annotated[
        bool,
        typer.Option("--queue", "-q", help="Show only what waits for workers, pool by pool, and who has which duty."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait until they have left; Ctrl-C stops waiting.")
    ] = False,
    yes: Yes = False,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    json: Json = False,
) -> int:
    """Show the processes of a fleet and what waits for its workers; or drain workers, which asks first.

    A drained worker takes no more runs, and ends when the runs that it has are over, however long that takes.
    """
    from trackside.app.cli.actions import fleets
    from trackside.app.cli.places import Place

    place = Place(database=database, url=url, api_key=api_key)
    options = fleets.WorkersOptions(workers=tuple(worker or ()), place=place, json=json)
    if action is WorkersAction.drain:
        options.refuse(queue=queue)
        return fleets.drain(options, yes=yes, wait=wait)
    options.refuse(workers=bool(worker), yes=yes, wait=wait)
    return fleets.show_queue(options) if queue else fleets.show_workers(options)
