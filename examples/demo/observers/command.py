"""The command `./scripts/demo observers`: run the scenario, tell everyone who needs to know, and see what they got."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter

from prometheus_server import NoPrometheusError, found, program
from research.graph import build_graph, open_library
from research.thinking import Extractive
from rich.console import Group, RenderableType
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from demo.commandline import Parser, exit_code_of
from demo.observers.messages import BrokerStand, LogStand, MailStand
from demo.observers.prometheus import PrometheusStand
from demo.observers.record import Arrival, Record
from demo.observers.stand import Stand, headline
from demo.observers.traces import TraceStand
from demo.observers.webhooks import WebhookStand
from demo.report import print_runs
from demo.scenario import RESEARCH, Scenario, deadline_after
from trackside import RunHandle
from trackside.app.cli.formatting import duration
from trackside.app.cli.views.live import LiveLines
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.settings import SETTINGS_FILE, load_settings
from trackside.app.wiring import App, open_app

PATIENCE = 15.0  # seconds
"""How long durable and live observers may be behind when all runs have ended."""

_PREFIX = "trackside-demo-"


class Nobody:
    """Watches runs without showing them: only observers hear of these."""

    async def watch(self, run: RunHandle) -> None:
        """Wait until the run has ended."""
        await run.result()


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options in a command line.

    Raises:
        UsageError: the options make no sense; the message says why.
    """
    parser = Parser(
        prog="./scripts/demo observers",
        description="Agents at work, with a Prometheus, a collector of traces, two webhooks, a broker, a mailbox and a log "
        "beside them, and what each of them got.",
    )
    parser.add_argument("--keep", action="store_true", help="let all go on until Ctrl-C, and leave the files")
    return parser.parse_args(arguments)


async def show_observers(console: OutputConsole, *, keep: bool, no_prometheus: str | None) -> int:
    """Run the whole demo; gives the exit code, 1 if something did not arrive.

    Args:
        console: where to show it.
        keep: whether everything goes on until somebody stops it.
        no_prometheus: why there is no Prometheus; None if there is one.
    """
    began = perf_counter()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder(keep=keep))
        prometheus = None if no_prometheus else PrometheusStand()
        webhooks, traces = WebhookStand(), TraceStand()
        stands: list[Stand] = [webhooks, traces, BrokerStand(), MailStand(), LogStand(folder / "log.jsonl")]
        if prometheus is not None:
            stands.insert(0, prometheus)
        for stand in stands:
            await stand.open(stack)
        app = await _open_app(folder, stands, stack)
        stack.callback(webhooks.recover)  # closing does not wait for a receiver that is down
        if prometheus is not None:
            await stack.enter_async_context(prometheus.scraping(app))
        _introduce(console, stands, no_prometheus)
        since = datetime.now(UTC)
        with _progress(console, stands):
            record = await _play(app, webhooks, traces)
            for stand in stands:
                await stand.settle(app, record)
        await print_runs(console, app.store, since)
        for stand in stands:
            stand.show(console, record)
        arrivals = [arrival for stand in stands for arrival in stand.arrivals(record)]
        _judge(console, arrivals, perf_counter() - began)
        if keep:
            stopped = _stop_signal()
            _say_where(console, folder, stands)
            await stopped.wait()
        return 0 if all(arrival.complete for arrival in arrivals) else 1


async def _open_app(folder: Path, stands: Sequence[Stand], stack: AsyncExitStack) -> App:
    """Open an app by the settings in `folder`, as any app does; only its agents are passed in as objects."""
    from demo.by_rules import agents_by_rules  # takes seconds

    database = f'[database]\nurl = "sqlite:///{folder / "runs.db"}"\n\n[runs]\nshutdown_grace = "1s"\n'
    text = "\n".join([database, *(stand.settings() for stand in stands)])
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
    agents = {RESEARCH: build_graph(thinker=Extractive()), **stack.enter_context(agents_by_rules())}
    settings = load_settings(environ={}, folder=folder)
    return await stack.enter_async_context(open_app(settings, agents, hands_over=False))


async def _play(app: App, webhooks: WebhookStand, traces: TraceStand) -> Record:
    """Run everything, and wait until all observers have been told; gives what the log has then."""
    began = perf_counter()
    await asyncio.to_thread(open_library, None)
    deadline = deadline_after(perf_counter() - began)
    async with traces.program():
        await Scenario(deadline=deadline).play(app, Nobody())
    record = await Record.read(app.store)
    await webhooks.outlast(record)
    await app.dispatcher.drain(PATIENCE)
    await app.manager.observers.flush(PATIENCE)
    return record


@contextmanager
def _folder(*, keep: bool) -> Generator[Path]:
    """Where the settings, the database and the log are."""
    if keep:
        yield Path(tempfile.mkdtemp(prefix=_PREFIX))
        return
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        yield Path(name)


@contextmanager
def _progress(console: OutputConsole, stands: Sequence[Stand]) -> Generator[None]:
    """Meanwhile show, on a terminal, what each stand has got so far."""

    def lines() -> RenderableType:
        rows = Table.grid(padding=(0, 2, 0, 0))
        for stand in stands:
            rows.add_row(spinner.render(monotonic()), Text(stand.name, "bold"), Text(stand.came(), "dim"))
        return Group(Text(), rows)

    if not console.is_live:
        yield
        return
    spinner = Spinner("dots")
    live = LiveLines(console, lines)
    live.start()
    try:
        yield
    finally:
        live.stop()


def _introduce(console: OutputConsole, stands: Sequence[Stand], no_prometheus: str | None) -> None:
    console.rule("Trackside demo: all who need to know", style="dim")
    rows = Table.grid(padding=(0, 2, 0, 0))
    if no_prometheus:
        rows.add_row(Text("prometheus", "yellow"), Text(no_prometheus, "yellow"))
    for stand in stands:
        rows.add_row(Text(stand.name, "bold"), Text(stand.place, "dim", overflow="fold"))
    console.print(rows)


def _judge(console: OutputConsole, arrivals: Sequence[Arrival], seconds: float) -> None:
    """Say of each receiver whether it got everything that it should have by the log."""
    headline(console, "What the log has, and what arrived")
    rows = Table.grid(padding=(0, 2, 0, 0))
    for arrival in arrivals:
        symbol, style = ("✓", "green") if arrival.complete else ("✗", "red")
        counted = Text(f"{arrival.counted} {arrival.things}", style)
        rows.add_row(Text(symbol, style), arrival.who, counted, Text(arrival.remark, "dim"))
    console.print(rows)
    missing = [arrival.who for arrival in arrivals if not arrival.complete]
    words = f"not all arrived: {', '.join(missing)}" if missing else "everybody has got all"
    console.print(Text(f"{words}, {duration(seconds)} after the start", "bold red" if missing else "bold green"))


def _say_where(console: OutputConsole, folder: Path, stands: Sequence[Stand]) -> None:
    """Say what there is to look at while everything goes on."""
    headline(console, "Look further: until Ctrl-C all of it goes on, and the files stay")
    trackside = os.path.relpath(Path(sys.executable).with_name("trackside"))
    database = shlex.quote(f"sqlite:///{folder / 'runs.db'}")
    for line in (
        f"ls {shlex.quote(str(folder))}",
        *(
            f"{shlex.quote(trackside)} {command} --database {database}"
            for command in ("runs", "subscriptions", "stats")
        ),
    ):
        console.print(Text(line, "cyan"), soft_wrap=True)
    for stand in stands:
        if isinstance(stand, PrometheusStand):
            for page in stand.pages:
                console.print(Text(page, "cyan"), soft_wrap=True)


def _stop_signal() -> asyncio.Event:
    """An event that Ctrl-C or SIGTERM sets from now on."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def find_prometheus() -> str | None:
    """Look for a Prometheus, and fetch it if need be; says why there is none, or gives None."""
    if found("prometheus") is None:
        print("demo: fetching Prometheus from Debian's packages into .tools/prometheus, once", file=sys.stderr)
    try:
        program("prometheus")
    except NoPrometheusError as exc:
        return str(exc)
    return None


def main() -> int:
    """Run the demo; gives the exit code. What goes wrong is one line on standard error."""

    def run() -> int:
        options = read_options(sys.argv[2:])
        no_prometheus = find_prometheus()
        return asyncio.run(show_observers(standard_output(), keep=options.keep, no_prometheus=no_prometheus))

    return exit_code_of(run)
