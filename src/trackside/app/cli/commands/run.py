"""The commands that execute a run here or on a server, and their options: `run`, `resume`, `retry`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from trackside.app.cli.commands import completing
from trackside.app.cli.commands.options import ApiKey, Database, Url, choices, positive

app = typer.Typer()


class StreamMode(StrEnum):
    """The parts of its work that an agent can be asked to show."""

    values = "values"
    updates = "updates"
    tasks = "tasks"
    checkpoints = "checkpoints"
    debug = "debug"


_JSON_OF_A_RUN = "Write events as JSON lines, and the result last, with what the agent returned as `output`."
_AS_LIMITS = "from the settings, else none"
_Timeout = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long the run may take: 90 (seconds), 30s, 5m.", show_default=_AS_LIMITS),
]
_MaxTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=positive,
        help="Stop the run when it has used more tokens than this.",
        show_default=_AS_LIMITS,
    ),
]
_MaxCost = Annotated[
    str | None,
    typer.Option(
        "--max-cost",
        metavar="USD",
        help="Stop the run when it has cost more US dollars than this.",
        show_default=_AS_LIMITS,
    ),
]
_MaxLlmCalls = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=positive,
        help="Stop the run when it has called models more often than this.",
        show_default=_AS_LIMITS,
    ),
]
_MaxToolCalls = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=positive,
        help="Stop the run when it has called tools more often than this.",
        show_default=_AS_LIMITS,
    ),
]
_Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", "-m", metavar="K=V", help="Metadata to keep with the run; may be repeated."),
]
_Stream = Annotated[
    list[StreamMode] | None,
    typer.Option(
        metavar="MODE", help=f"Also show this part of the agent's work ({choices(StreamMode)}); may be repeated."
    ),
]


@app.command()
def run(
    agent: Annotated[
        str,
        typer.Argument(metavar="AGENT", help="path/file.py:name, package.module:name, or a name from trackside.toml."),
    ],
    input: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="Text (a human message), JSON, @FILE, or - for standard input."),
    ] = None,
    thread: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="The thread to continue, or to start.",
            autocompletion=completing.thread_ids,
        ),
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    timeout: _Timeout = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    max_llm_calls: _MaxLlmCalls = None,
    max_tool_calls: _MaxToolCalls = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Run an agent once and watch it."""
    from trackside.app.cli.actions import running
    from trackside.app.cli.actions.run_options import RunOptions
    from trackside.app.cli.places import Place

    return running.run(
        agent,
        input,
        RunOptions(
            place=Place(database=database, url=url, api_key=api_key),
            timeout=timeout,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_llm_calls=max_llm_calls,
            max_tool_calls=max_tool_calls,
            metadata=metadata or (),
            modes=tuple(stream or ()),
            json=json,
        ),
        thread=thread,
    )


@app.command()
def resume(
    thread: Annotated[
        str,
        typer.Argument(
            metavar="THREAD",
            help="The whole id of the waiting thread.",
            autocompletion=completing.thread_ids,
        ),
    ],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="Text, JSON, @FILE, or - for standard input.")],
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="The agent, if it is not where it was before.")
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    timeout: _Timeout = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    max_llm_calls: _MaxLlmCalls = None,
    max_tool_calls: _MaxToolCalls = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Answer a thread's question, and watch it go on. At a breakpoint, any answer lets it go on to the next one."""
    from trackside.app.cli.actions import running
    from trackside.app.cli.actions.run_options import RunOptions
    from trackside.app.cli.places import Place

    return running.resume(
        thread,
        answer,
        RunOptions(
            place=Place(database=database, url=url, api_key=api_key),
            timeout=timeout,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_llm_calls=max_llm_calls,
            max_tool_calls=max_tool_calls,
            metadata=metadata or (),
            modes=tuple(stream or ()),
            json=json,
        ),
        agent=agent,
    )


@app.command()
def retry(
    run: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The run to repeat, which has ended; the beginning or end of its id is enough.",
            autocompletion=completing.run_ids,
        ),
    ],
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="The agent, if it is not where it was before.")
    ] = None,
    database: Database = None,
    url: Url = None,
    api_key: ApiKey = None,
    timeout: _Timeout = None,
    max_tokens: _MaxTokens = None,
    max_cost: _MaxCost = None,
    max_llm_calls: _MaxLlmCalls = None,
    max_tool_calls: _MaxToolCalls = None,
    metadata: _Metadata = None,
    stream: _Stream = None,
    json: Annotated[bool, typer.Option("--json", help=_JSON_OF_A_RUN)] = False,
) -> int:
    """Repeat what a run was asked for, as a new run of the same thread, and watch it."""
    from trackside.app.cli.actions import running
    from trackside.app.cli.actions.run_options import RunOptions
    from trackside.app.cli.places import Place

    return running.retry(
        run,
        RunOptions(
            place=Place(database=database, url=url, api_key=api_key),
            timeout=timeout,
            max_tokens=max_tokens,
            max_cost=max_cost,
            max_llm_calls=max_llm_calls,
            max_tool_calls=max_tool_calls,
            metadata=metadata or (),
            modes=tuple(stream or ()),
            json=json,
        ),
        agent=agent,
    )
