"""What each extra is for, shown by the smallest thing that works with it and is refused without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from distribution import FreshEnvironment

FUNCTION: Final = """
async def agent(input, run):
    return {"said": input}
"""
GRAPH: Final = """
from langgraph.graph import END, START, MessagesState, StateGraph

def answer(state: MessagesState) -> dict[str, list[tuple[str, str]]]:
    return {"messages": [("ai", "it is forty-two")]}

builder = StateGraph(MessagesState)
builder.add_node(answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile()
"""
OPENAI: Final = """
from agents import Agent

helper = Agent(name="helper", instructions="Help.")
"""
PYDANTIC: Final = """
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

helper = Agent(TestModel(custom_output_text="it is forty-two"))
"""
DATABASE: Final = "DATABASE"
"""Stands for the address of a database on PostgreSQL."""
NOWHERE: Final = "postgresql://nobody@127.0.0.1:9/none"
"""An address of such a database that does not exist."""

_CHECK: Final = ("serve", "--check", "function.py:agent")
_CHECKED: Final = "All is well: would serve agent"


@dataclass(frozen=True, slots=True)
class Proof:
    """What this `trackside` command shows, in a folder with these files, if the extra is installed.

    Without it, the message names the missing extra `asks_for`, which is the extra itself if left out; None if the
    package alone can do it already.
    """

    extra: str
    command: tuple[str, ...] = _CHECK
    shows: str = _CHECKED
    files: Mapping[str, str] = field(default_factory=dict)
    asks_for: str | None = ""

    @property
    def missing(self) -> str | None:
        """The extra that the message names where it is not installed."""
        return self.extra if self.asks_for == "" else self.asks_for

    def prepare(self, folder: Path) -> None:
        """Write the files."""
        for name, text in {"function.py": FUNCTION, **self.files}.items():
            (folder / name).write_text(text, "utf-8")


def _observer(extra: str, *lines: str, asks_for: str | None = "") -> Proof:
    settings = "\n".join(["[[observers]]", *lines, ""])
    return Proof(extra, files={"trackside.toml": settings}, asks_for=asks_for)


_WEBHOOK: Final = 'secret = "whsec_QSBzZWNyZXQgb2YgMzIgYnl0ZXMgZm9yIHRoZSBkb2Nz"'
OBSERVERS: Final = (
    _observer("metrics", 'type = "metrics"'),
    _observer("otel", 'type = "tracing"', 'endpoint = "http://127.0.0.1:4318"'),
    _observer("logging", 'type = "logging"', 'backend = "structlog"', asks_for=None),
    _observer("webhook", 'type = "webhook"', 'url = "https://example.org/hook"', _WEBHOOK),
    _observer("notify", 'type = "notify"', 'to = ["json://127.0.0.1:9"]', 'on = [{ status = ["error"] }]'),
    _observer("nats", 'type = "broker"', 'name = "nats"', 'url = "nats://127.0.0.1:9"'),
    _observer("redis", 'type = "broker"', 'name = "redis"', 'url = "redis://127.0.0.1:9/0"'),
    _observer("openlineage", 'type = "openlineage"', 'url = "http://127.0.0.1:9"'),
)
_ALL_OBSERVERS: Final = "\n".join(proof.files["trackside.toml"] for proof in OBSERVERS)
_SAVER: Final = {"graph.py": GRAPH, "trackside.toml": '[checkpoints]\nsaver = "langgraph"\n'}

PROOFS: Final = (
    Proof("langgraph", ("run", "graph.py:graph", "What is it?"), "it is forty-two", {"graph.py": GRAPH}),
    Proof("langgraph-sqlite", ("run", "graph.py:graph", "What is it?"), "it is forty-two", _SAVER, "langgraph"),
    Proof(
        "langgraph-postgres",
        ("run", "graph.py:graph", "What is it?", "--database", DATABASE),
        "it is forty-two",
        _SAVER,
        "langgraph",
    ),
    Proof("openai-agents", ("serve", "--check", "helper.py:helper"), "would serve helper", {"helper.py": OPENAI}),
    Proof("pydantic-ai", ("run", "helper.py:helper", "What is it?"), "it is forty-two", {"helper.py": PYDANTIC}),
    Proof("postgres", ("run", "function.py:agent", "hello", "--database", DATABASE), "hello"),
    Proof("parquet", ("export", "runs.parquet"), "runs.parquet"),
    *OBSERVERS,
    Proof(
        "jwt",
        files={"trackside.toml": '[server]\nauth = "jwt"\njwt_key = "a secret of more than 32 bytes, for a test"\n'},
    ),
    Proof("top", ("top",), "it needs a terminal"),
    Proof("observers", files={"trackside.toml": _ALL_OBSERVERS}, asks_for="metrics"),
    Proof("all", files={"trackside.toml": _ALL_OBSERVERS}, asks_for="metrics"),
)
"""All extras but `fleet`, which has a test of its own."""


def run_proof(proof: Proof, environment: FreshEnvironment, folder: Path, database: str) -> tuple[int, str]:
    """Run the proof in this folder; return the exit code and all that was shown."""
    proof.prepare(folder)
    if proof.command[0] in {"export", "top"}:  # these need a run to show
        environment.run(environment.trackside, "run", "function.py:agent", "hello", folder=folder)
    words = [database if word == DATABASE else word for word in proof.command]
    done = environment.run(environment.trackside, *words, folder=folder)
    return done.returncode, done.stdout + done.stderr
