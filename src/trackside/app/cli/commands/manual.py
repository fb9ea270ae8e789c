"""What `--help` says beyond arguments: where a command belongs, its exit codes, and examples that work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import typer

EXITS: Final = "0 done; 1 failed; 2 the command line is wrong"


@dataclass(frozen=True, slots=True)
class Example:
    """A line to type, and what it does. If `runs` is true, it works in any folder with agents.py and some runs (tested)."""

    line: str
    what: str
    runs: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manual says about one command."""

    group: str
    examples: tuple[Example, ...]
    exits: str = EXITS


_OF_A_RUN: Final = "0 success; 1 error; 2 the command line is wrong; 75 waiting for a human; 124 timeout; 130 cancelled"
_ASKS: Final = f"{EXITS}, or there is nobody to ask; 130 declined"

MANUAL: Final[Mapping[str, Entry]] = {
    "run": Entry(
        "Run",
        (
            Example(
                "trackside run agents.py:chat 'What is new?'",
                "send a message, and see its answer as it is written",
                runs=True,
            ),
            Example("trackside run agents.py:chat @question.json --timeout 5m --max-cost 0.50", "with limits"),
            Example(
                "trackside run agents.py:chat 'And then?' --thread t-1 --json",
                "continue a thread, with output as JSON",
                runs=True,
            ),
            Example("trackside run chat 'Hello' --url https://agents.example.org", "on a server"),
        ),
        _OF_A_RUN,
    ),
    "resume": Entry(
        "Run",
        (
            Example("trackside resume t-1 yes", "answer what the thread asks"),
            Example("""trackside resume t-1 '{"approved": true}' --json""", "answer with an object"),
        ),
        _OF_A_RUN,
    ),
    "retry": Entry(
        "Run",
        (
            Example("trackside retry 0199f3", "the run whose id begins with 0199f3"),
            Example("trackside retry 0199f3 --timeout 10m", "with more time"),
            Example("trackside retry 0199f3 --url http://127.0.0.1:2024", "on a server"),
        ),
        _OF_A_RUN,
    ),
    "runs": Entry(
        "Look",
        (
            Example("trackside runs --status error --since 2h", "recent failures", runs=True),
            Example("trackside runs --json -n 5", "for a program", runs=True),
            Example("trackside runs 0199f3", "one run in full"),
        ),
    ),
    "threads": Entry(
        "Look",
        (
            Example("trackside threads --status interrupted", "threads that wait for a human", runs=True),
            Example("trackside threads t-1", "one thread with its runs and open questions"),
        ),
    ),
    "events": Entry(
        "Look",
        (
            Example("trackside events --type run_failed --since 1d", "the failures of the last day", runs=True),
            Example("trackside events --after 0 --limit 100 --json", "the log from its beginning", runs=True),
        ),
    ),
    "tail": Entry(
        "Look",
        (
            Example("trackside tail --agent chat", "what an agent does, as it happens"),
            Example("trackside tail --status error", "failures, as they happen"),
            Example("trackside tail --type run_failed --json | jq .payload.error", "failures, for a program"),
        ),
        f"{EXITS}; 130 Ctrl-C",
    ),
    "stats": Entry(
        "Look",
        (
            Example("trackside stats --since 7d --by day", "the last week, day by day", runs=True),
            Example("trackside stats --agent chat --status success --json", "totals, for a program", runs=True),
            Example("trackside stats --since 1d --by hour --json", "one object per hour", runs=True),
        ),
    ),
    "top": Entry(
        "Look",
        (
            Example("trackside top", "the runs in this folder's database"),
            Example("trackside top --url https://agents.example.org --light", "on a server, on a light background"),
        ),
    ),
    "cancel": Entry(
        "Act",
        (
            Example("trackside cancel 0199f3 --wait", "stop a run, and wait until it has ended"),
            Example("trackside cancel 0199f3 --action rollback", "stop a run, and put its thread back as it was"),
        ),
        f"{EXITS}; 130 Ctrl-C (--wait)",
    ),
    "delete": Entry(
        "Act",
        (
            Example("trackside delete run 0199f3", "asks first"),
            Example("trackside delete thread t-1 t-2 --yes", "from a script"),
        ),
        _ASKS,
    ),
    "subscriptions": Entry(
        "Act",
        (
            Example("trackside subscriptions", "how far all of them are", runs=True),
            Example("trackside subscriptions mail pause", "deliver nothing for now"),
            Example("trackside subscriptions mail delete --dry-run", "what would be lost"),
        ),
        _ASKS,
    ),
    "replay": Entry(
        "Act",
        (
            Example(
                "trackside replay mail --from 1 --wait", "everything again, after asking, and wait until it has arrived"
            ),
            Example("trackside replay mail --from 5000 --dry-run", "how much would be left out"),
        ),
        "0 done; 1 the subscription stands still, or parked some events (--wait);"
        " 2 the command line is wrong, or there is nobody to ask; 130 declined",
    ),
    "parked": Entry(
        "Act",
        (
            Example("trackside parked mail", "what could not be handled, and why"),
            Example("trackside parked mail retry --position 8", "retry one of them"),
            Example("trackside parked mail drop --yes", "give up all of them"),
        ),
        _ASKS,
    ),
    "serve": Entry(
        "Serve",
        (
            Example("trackside serve", "all agents of trackside.toml, at 127.0.0.1:2024"),
            Example("trackside serve agents.py:chat --port 0 --json", "on any free port, named in JSON"),
            Example("trackside serve agents.py:chat --check", "only check that it could start", runs=True),
        ),
    ),
    "worker": Entry(
        "Serve",
        (
            Example("trackside worker --engine postgres", "execute what servers with this engine admit"),
            Example("trackside worker chat --pool gpu --concurrency 4 --port 9000", "one agent, from one pool"),
            Example("trackside worker --isolation process --memory-limit 2GB", "each run in a process of its own"),
        ),
        "0 told to stop, or drained; 1 failed; 2 the command line is wrong",
    ),
    "fleet": Entry(
        "Serve",
        (
            Example("trackside fleet up", "PostgreSQL, NATS, two servers and three workers"),
            Example("trackside fleet up -n 8 --servers 3", "more servers and workers"),
        ),
    ),
    "fleet up": Entry(
        "Serve",
        (
            Example("trackside fleet up -n 3", "all agents of trackside.toml"),
            Example(
                "trackside fleet up agents.py:chat --data fleet --port 2024",
                "keep the data, and always use the same ports",
            ),
            Example("trackside fleet up --engine postgres --json", "without NATS, for a program"),
        ),
    ),
    "workers": Entry(
        "Serve",
        (
            Example("trackside workers", "which processes there are, and what waits", runs=True),
            Example("trackside workers --queue --json", "what waits, for a program", runs=True),
            Example("trackside workers drain web-3:4711 --wait", "have one leave, and wait until it has"),
        ),
        f"{_ASKS}; drain --wait: 1 a worker was lost, 130 Ctrl-C",
    ),
    "auth": Entry(
        "Serve",
        (
            Example("trackside auth create ci --permission run", "a key for a program", runs=True),
            Example("trackside auth list --all", "all keys", runs=True),
        ),
    ),
    "auth create": Entry(
        "Serve",
        (
            Example("trackside auth create deploy --permission run --expires 90d", "a key for a program", runs=True),
            Example("trackside auth create ops -p admin --json", "a key for an operator, as JSON", runs=True),
        ),
    ),
    "auth list": Entry(
        "Serve",
        (
            Example("trackside auth list", "the valid keys", runs=True),
            Example("trackside auth list --all --json", "also those no longer valid, for a program", runs=True),
        ),
    ),
    "auth revoke": Entry(
        "Serve",
        (
            Example("trackside auth revoke 0123456789ab", "asks first"),
            Example("trackside auth revoke 0123456789ab --yes", "does not ask"),
        ),
        _ASKS,
    ),
    "observers": Entry(
        "Serve",
        (
            Example("trackside observers", "the observers that are configured, and those that could be", runs=True),
            Example("trackside observers --json", "for a program", runs=True),
        ),
    ),
    "deliver": Entry(
        "Serve",
        (
            Example("trackside deliver --until-idle", "deliver what was left, then exit"),
            Example("trackside deliver mail", "one observer, until Ctrl-C"),
        ),
        "0 done, or Ctrl-C; 1 an observer could not be fed, or an event was parked (--until-idle);"
        " 2 the command line is wrong",
    ),
    "prune": Entry(
        "Data",
        (
            Example("trackside prune --older-than 30d --dry-run", "how much it would remove", runs=True),
            Example("trackside prune --older-than 8w --status success --yes", "from a timer", runs=True),
        ),
        _ASKS,
    ),
    "export": Entry(
        "Data",
        (
            Example("trackside export runs.jsonl.gz --since 7d", "a week, compressed", runs=True),
            Example("trackside export --type run_failed | jq 'select(.payload)'", "failures, for a program"),
            Example("trackside export runs.parquet", "for a notebook (trackside[parquet])"),
        ),
    ),
    "import": Entry(
        "Data",
        (
            Example("trackside import runs.jsonl.gz -d sqlite:///copy.db", "into another database"),
            Example("zcat runs.jsonl.gz | trackside import -", "from a pipe"),
        ),
    ),
    "doctor": Entry(
        "Upkeep",
        (
            Example("trackside doctor", "what is wrong, and which command to run next", runs=True),
            Example("trackside doctor --url http://127.0.0.1:2024 --json", "the same for a server, for a program"),
        ),
        "0 all is well; 1 something needs attention; 2 the command line is wrong",
    ),
    "explain": Entry(
        "Upkeep",
        (
            Example("trackside explain thread-busy", "what a message that ends with [thread-busy] means", runs=True),
            Example("trackside explain worker_lost", "why a run failed, as `trackside runs` shows it", runs=True),
            Example("trackside explain", "list all codes", runs=True),
            Example("trackside explain --json | jq -r .code", "only the codes, for a program"),
        ),
    ),
    "db": Entry(
        "Upkeep",
        (
            Example("trackside db current", "the version of the tables", runs=True),
            Example("trackside db check", "whether all is well", runs=True),
        ),
    ),
    "db current": Entry(
        "Upkeep",
        (
            Example("trackside db current", "for this folder's database", runs=True),
            Example("trackside db current -d postgresql://db/runs --json", "for another database, for a program"),
        ),
    ),
    "db upgrade": Entry(
        "Upkeep",
        (
            Example("trackside db upgrade --dry-run --json", "what it would do, for a program", runs=True),
            Example("trackside db upgrade --yes", "when you upgrade a server", runs=True),
        ),
        _ASKS,
    ),
    "db check": Entry(
        "Upkeep",
        (
            Example("trackside db check", "the newest runs", runs=True),
            Example("trackside db check --all --json", "every run, for a program", runs=True),
        ),
        "0 all is well; 1 something is wrong; 2 the command line is wrong",
    ),
    "db compact": Entry(
        "Upkeep",
        (
            Example("trackside db compact", "SQLite only; nobody can write meanwhile", runs=True),
            Example("trackside db compact -d sqlite:///old.db --json", "for another file, for a program"),
        ),
    ),
}
"""The entries, by the words of each command."""


def describe(app: typer.Typer, above: str = "") -> None:
    """Give every command below this its entry in the manual. A command without an entry stays as it is."""
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "")
        if (entry := MANUAL.get(f"{above}{name}")) is not None:
            command.epilog = _epilog(entry)
            command.rich_help_panel = None if above else entry.group
    for group in app.registered_groups:
        if group.typer_instance is None:
            continue
        name = group.name if isinstance(group.name, str) else ""
        if (entry := MANUAL.get(name)) is not None:
            group.rich_help_panel = entry.group
            group.epilog = _epilog(entry)
        describe(group.typer_instance, f"{above}{name} " if name else above)


def _epilog(entry: Entry) -> str:
    """The entry as text for Rich, which takes words in brackets for markup."""
    examples = "\n".join(f"  {example.line}\n      {example.what}" for example in entry.examples)
    return f"Examples:\n{examples}\n\nExit codes: {entry.exits}.".replace("[", "\\[")
