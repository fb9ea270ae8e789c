"""The command `./scripts/demo serve`: `trackside serve` as anybody would run it, with visitors, until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text
from trackside_server import TracksideServer
from webhook_receiver import Answer, Connection, WebhookReceiver, status

from demo.commandline import DemoError, Parser, UsageError, exit_code_of
from demo.serving.visitors import Visitors
from trackside.app.cli.views.output import OutputConsole, standard_output

EXAMPLES: Final = Path(__file__).parents[2]
DATABASE: Final = "trackside-demo-serve.db"
AGENTS: Final = {
    "briefing": "reads what packages say of themselves and writes it up, word by word",
    "research": "answers questions from the documentation that is installed (LangGraph)",
    "reviewed": "the same; a human approves of its plan",
    "hurried": "the same, with too little time",
    "support": "hands a customer over to whoever may refund (OpenAI Agents SDK)",
    "expenses": "checks expenses, and asks about some (Pydantic AI)",
}
"""The agents by name, with what they are for."""

_LOOK_AGAIN: Final = 1.0  # seconds
_SECRET: Final = "DEMO_HOOK_SECRET"  # the variable's name


def settings_of(hook: str) -> str:
    """The server's `trackside.toml`: its agents, one with too little time, and a webhook that is told of ends."""
    agents = "\n".join(f'{name} = "demo.serving.agents:{name}"' for name in AGENTS)
    return f"""\
[agents]
{agents}

[limits.hurried]
timeout = "50ms"

[[observers]]
type = "webhook"
name = "crm"
url = "{hook}"
secret = "env:{_SECRET}"
events = ["run_completed", "run_failed", "run_cancelled"]
attempts = 3
allow_private_addresses = true
"""


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options in a command line.

    Raises:
        UsageError: the options make no sense; the message says why.
    """
    parser = Parser(
        prog="./scripts/demo serve",
        description="A server with the demo's agents, to be looked at in a browser; visitors keep runs coming until Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=2024, help="where it listens on this machine, 2024 if left out")
    parser.add_argument(
        "--every", type=float, default=4.0, metavar="SECONDS", help="between two visitors, 4 if left out"
    )
    parser.add_argument("--seconds", type=float, metavar="SECONDS", help="end after so long, instead of at Ctrl-C")
    parser.add_argument(
        "--pictures", metavar="DIR", type=Path, help="take the README's pictures into this folder, and end"
    )
    parser.add_argument("--database", metavar="URL", help=f"where to record, sqlite:///{DATABASE} if left out")
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 65_536:
        raise UsageError(f"--port is a number up to 65535, and not {options.port}")
    if not options.every > 0:
        raise UsageError(f"--every is more than nothing, and not {options.every:g}")
    return options


async def run_demo(options: argparse.Namespace, console: OutputConsole) -> None:
    """Serve, and have visitors come, until the demo is over."""
    secret = f"whsec_{base64.b64encode(os.urandom(32)).decode()}"
    database = options.database or f"sqlite:///{Path.cwd() / DATABASE}"
    async with WebhookReceiver(secret) as receiver:
        receiver.otherwise = _takes_most(receiver)
        with tempfile.TemporaryDirectory(prefix="trackside-demo-") as folder:
            server = TracksideServer(
                Path(folder),
                database=database,
                settings=settings_of(receiver.url),
                port=options.port,
                env={"PYTHONPATH": str(EXAMPLES), "PYTHONWARNINGS": "default", _SECRET: secret},
            )
            console.print("The agents are being loaded …", style="dim")
            try:
                await asyncio.to_thread(server.start)
            except RuntimeError as exc:
                raise UsageError(f"the server did not start: {_last_line(server.log) or exc}") from exc
            try:
                _introduce(console, server.url, database)
                if await _receive(server, options) is not None:
                    console.print(f"The pictures are in {options.pictures}.")
                if server.has_ended:
                    raise DemoError(f"the server has ended by itself: {_last_line(server.log)}")
            finally:
                if not server.has_ended:
                    await asyncio.shield(asyncio.to_thread(server.terminate))
        console.print(f"The server has stopped. What it has recorded is kept: {database}", style="dim")


async def _receive(server: TracksideServer, options: argparse.Namespace) -> list[Path] | None:
    """Have visitors come until the time is up, a signal stops the demo, the pictures (if any) are taken, or the server
    has ended.
    """
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    visiting = asyncio.create_task(Visitors(server.url, every=options.every).come(), name="demo: visitors")
    taking = asyncio.create_task(_pictures(server.url, options.pictures), name="demo: pictures")
    waiting = asyncio.create_task(over.wait(), name="demo: until it is over")
    ending = asyncio.create_task(_until_ended(server), name="demo: server")
    tasks: set[asyncio.Task[Any]] = {visiting, taking, waiting, ending}
    try:
        await asyncio.wait(tasks, timeout=options.seconds, return_when=asyncio.FIRST_COMPLETED)
        if visiting.done():
            await visiting  # which raises what went wrong
        return await taking if taking.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_ended(server: TracksideServer) -> None:
    while not server.has_ended:  # noqa: ASYNC110  # a process does not announce that it ends
        await asyncio.sleep(_LOOK_AGAIN)


async def _pictures(url: str, folder: Path | None) -> list[Path]:
    if folder is None:
        await asyncio.Event().wait()
    from demo.serving.pictures import take_pictures  # imports a browser's driver, which nothing else here needs

    assert folder is not None
    return await take_pictures(url, folder)


def _takes_most(receiver: WebhookReceiver) -> Answer:
    """An endpoint that refuses runs that failed over a package, as endpoints do with what they cannot make sense of."""

    async def answer(connection: Connection) -> None:
        body = receiver.requests.pop().body
        await status(400 if b"left-pad" in body else 200)(connection)

    return answer


def _introduce(console: OutputConsole, url: str, database: str) -> None:
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="dim")
    rows.add_row("console", Text.assemble((url, "bold"), "   (in a browser; Ctrl-C ends it)"))
    rows.add_row("API", f"{url}/docs   (LangGraph's clients speak to it unchanged)")
    rows.add_row("database", database)
    for name, what in AGENTS.items():
        rows.add_row(name, what)
    rows.add_row("", "Some fail, some run out of time or are cancelled, and some wait for your answer.")
    console.print(rows)


def _last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def main() -> int:
    """Run the demo; gives the exit code. What goes wrong is one line on standard error."""

    def run() -> int:
        asyncio.run(run_demo(read_options(sys.argv[2:]), standard_output()))
        return 0

    return exit_code_of(run)
