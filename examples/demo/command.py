"""The command `./scripts/demo`: run the scenario, watch it, look it up."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from local_model import MODEL, local_model
from research.graph import build_graph, open_library
from research.index import Library, terms
from research.thinking import DEFAULT_MODEL, Extractive, ModelThinker, Thinker, thinker_from_environment
from rich.console import Console
from rich.table import Table

from demo.commandline import Parser, UsageError, exit_code_of
from demo.report import print_answers, print_commands, print_runs, print_totals
from demo.scenario import LANES, QUESTIONS, RESEARCH, Scenario, deadline_after
from demo.view import LiveView
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.app.settings import load_settings
from trackside.app.wiring import open_app

DATABASE = "sqlite:///trackside-demo.db"
DEADLINE_WITH_MODEL = 3.0
"""Seconds that the run meant to time out gets: a deep question to a model takes minutes."""

_MODEL_VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user typed."""

    questions: tuple[str, ...]
    docs: str | None
    database: str
    model: bool
    offline: bool


def read_options(arguments: Sequence[str]) -> Options:
    """The options in a command line.

    UsageError: the options make no sense; the message says why.
        UsageError: they make no sense; the message says why.
    """
    parser = Parser(
        prog="./scripts/demo",
        description="Trackside at work: real runs, live, and what is kept of them.",
        epilog="./scripts/demo observers has the same runs told to others: Prometheus, a collector of traces, webhooks, a "
        "broker, a mailbox, a log; and shows what each of them got (observers --help). ./scripts/demo serve keeps runs "
        "coming on a server, to be looked at in a browser (serve --help); ./scripts/demo fleet kills "
        "parts of a fleet while runs go on (fleet --help)",
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="ask this instead; up to four")
    parser.add_argument("--docs", metavar="DIR", help="search the .md, .rst and .txt files in this folder")
    parser.add_argument("--database", metavar="URL", default=DATABASE, help=f"where to record, {DATABASE} if left out")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", action="store_true", help="install a small local language model (120 MB) and use it")
    which.add_argument("--offline", action="store_true", help="use no model, whatever OPENAI_… variables say")
    options = parser.parse_args(arguments)
    if len(options.questions) > 4:
        raise UsageError(f"four questions are enough, {len(options.questions)} are too many")
    for question in options.questions:
        if not terms(question):
            raise UsageError(f"there is nothing to search for in {question!r}: ask with a key word")
    return Options(tuple(options.questions), options.docs, options.database, options.model, options.offline)


async def run_demo(options: Options, console: OutputConsole) -> None:
    """Run the whole demo.

    Raises:
        DocumentError: the documents cannot be read.
        LocalModelError: the model does not run.
        TracksideError: the database cannot be used.
    """
    began = perf_counter()
    library = open_library(options.docs)
    reading = perf_counter() - began
    questions = options.questions or (questions_about(library) if options.docs else QUESTIONS)
    if options.database == DATABASE:
        _remove_last_demo()
    settings = load_settings(flags={"database.url": options.database})
    from demo.by_rules import agents_by_rules  # takes seconds: first check that the command line can be carried out

    async with AsyncExitStack() as stack:
        thinker = await _thinker(options, stack)
        view = LiveView(console)
        since = datetime.now(UTC)
        agents = {RESEARCH: build_graph(thinker=thinker), **stack.enter_context(agents_by_rules())}
        app = await stack.enter_async_context(open_app(settings, agents, observers=[view], hands_over=False))
        _introduce(console, library, reading, options, thinker)
        deadline = DEADLINE_WITH_MODEL if isinstance(thinker, ModelThinker) else deadline_after(reading)
        with view:
            outcomes = await Scenario(questions=questions, docs=options.docs, deadline=deadline).play(app, view)
        console.print()
        await print_answers(console, app.store, outcomes, view.answers)
        await print_runs(console, app.store, since)
        await print_totals(console, app.store, since)
        print_commands(console, options.database, outcomes[-1].result.thread_id)


async def _thinker(options: Options, stack: AsyncExitStack) -> Thinker:
    """The local model if asked for, else the model that the environment names, else the documents alone."""
    if options.offline:
        return Extractive()
    if options.model:
        for variable in _MODEL_VARIABLES:
            os.environ.pop(variable, None)
        os.environ["OPENAI_BASE_URL"] = await stack.enter_async_context(local_model())
        os.environ["OPENAI_MODEL"] = MODEL
    return thinker_from_environment()


def questions_about(library: Library) -> tuple[str, ...]:
    """Questions that a folder can say something about, made from the headings under which it says most."""
    sections = sorted(
        (section for document in library.documents for section in document.sections if terms(section.heading)),
        key=lambda section: -len(section.sentences),
    )
    headings = list(dict.fromkeys(section.heading for section in sections))[: len(QUESTIONS)]
    subjects = [document.subject for document in library.documents if terms(document.subject)]
    return tuple(f"What about {about}?" for about in headings or subjects[:1]) or QUESTIONS


def _introduce(console: Console, library: Library, reading: float, options: Options, thinker: Thinker) -> None:
    source = options.docs or "the READMEs of the packages in this environment"
    counted = f"{len(library.documents):,} documents, {library.sentence_count:,} sentences"
    thinks = "without a model: it answers in the documents' own words"
    if isinstance(thinker, ModelThinker):
        thinks = f"with {os.environ.get('OPENAI_MODEL') or DEFAULT_MODEL}, which plans, sums up and writes"
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="dim")
    rows.add_row("reads", f"{counted}: {source} (indexed in {reading:.2f} s)")
    rows.add_row("thinks", thinks)
    rows.add_row("", "support and expenses: by rules in a model's place, whose tokens Pydantic AI estimates")
    rows.add_row("runs", "five threads at once:")
    lanes = Table.grid(padding=(0, 2, 0, 0))
    for lane, what in LANES.items():
        lanes.add_row(lane, what)
    rows.add_row("", lanes)
    console.rule("Trackside demo: agents of three frameworks", style="dim")
    console.print(rows)
    console.print()


def _remove_last_demo() -> None:
    """Start with an empty database; this only ever removes the demo's own."""
    for suffix in ("", "-wal", "-shm"):
        Path(DATABASE.removeprefix("sqlite:///") + suffix).unlink(missing_ok=True)


def main() -> int:
    """Run the demo; gives the exit code. What goes wrong is one line on standard error."""

    def run() -> int:
        asyncio.run(run_demo(read_options(sys.argv[1:]), standard_output()))
        return 0

    return exit_code_of(run)
