"""The timeline, piece by piece: assembled messages, growing text, rows, tables."""

import io
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import ConsoleDimensions

from trackside.app.cli.formatting import printable
from trackside.app.cli.records.protocol import Home
from trackside.app.cli.views.appearance import CONTINUED, Look
from trackside.app.cli.views.messages import Messages, last_answer
from trackside.app.cli.views.output import OutputConsole
from trackside.app.cli.views.rows import Rows
from trackside.app.cli.views.tables import Column, print_table
from trackside.app.cli.views.timeline import Timeline, settled_lines
from trackside.harness.observer import RunLifecycleEvent, RunResult
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import LifecycleEventType, RunStatus


class Screen(io.StringIO):
    """A stream that claims to be a terminal, as wide as the test makes it."""

    def isatty(self) -> bool:
        return True


def console_of(columns: int, monkeypatch: pytest.MonkeyPatch, *, screen: bool = True) -> OutputConsole:
    monkeypatch.setenv("TERM", "dumb")  # a screen without live output
    console = OutputConsole(Screen() if screen else io.StringIO())
    console.size = ConsoleDimensions(columns, 50)
    return console


def lines_of(console: OutputConsole) -> list[str]:
    file = console.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def chunk(text: str, key: str = "m1", **more: Any) -> dict[str, Any]:
    return {"type": "AIMessageChunk", "id": key, "content": text, **more}


def said(messages: Messages, *parts: Any, namespace: tuple[str, ...] = ()) -> list[tuple[str, str, bool]]:
    pieces = (messages.take(part, namespace) for part in parts)
    return [(piece.look.label, piece.text, piece.done) for piece in pieces if piece is not None]


def test_a_message_that_was_streamed_is_not_said_again_when_it_comes_whole() -> None:
    assert said(
        Messages(),
        chunk("Hel"),
        chunk("lo"),
        {"type": "ai", "id": "m1", "content": "Hello!"},
        {"type": "ai", "id": "m1", "content": "Hello!"},
    ) == [("agent", "Hel", False), ("agent", "lo", False), ("agent", "!", True)]


def test_the_last_chunk_ends_its_message() -> None:
    assert said(Messages(), chunk("Hello"), chunk("", chunk_position="last"), chunk("late")) == [
        ("agent", "Hello", False),
        ("agent", "", True),
    ]


def test_who_speaks_is_the_name_the_subgraph_or_the_node() -> None:
    whole = {"type": "ai", "content": "x"}
    node = {"langgraph_node": "model"}

    assert said(Messages(), [{**whole, "name": "writer"}, node])[0][0] == "writer"
    assert said(Messages(), [whole, node], namespace=("outer:1", "researcher:2"))[0][0] == "researcher"
    assert said(Messages(), (whole, node))[0][0] == "model"
    assert said(Messages(), whole)[0][0] == "agent"


def test_calls_of_tools_and_their_results_are_said_on_a_line_each() -> None:
    call = {"id": "c1", "name": "search", "args": {"q": "trains"}}

    assert said(
        Messages(),
        {"type": "ai", "id": "m1", "content": "Let me look.", "tool_calls": [call]},
        chunk("", "m2", tool_call_chunks=[{**call, "args": ""}], tool_calls=[{**call, "args": {}}]),
        chunk("", "m2", tool_call_chunks=[{"id": None, "name": None, "args": '{"q"'}]),
        {"type": "tool", "id": "t1", "name": "search", "content": "two\nlines"},
    ) == [
        ("agent", 'Let me look.\n→ search({"q": "trains"})', True),
        ("agent", "\n→ search", False),
        ("agent", "", False),
        ("search", "two lines", True),
    ]


@pytest.mark.parametrize("data", [None, "text", 3, [], [None], {}, {"type": "human", "content": "x"}, {"type": 7}])
def test_what_is_no_message_of_the_agent_says_nothing(data: Any) -> None:
    assert said(Messages(), data) == []


def growing(text: str) -> Iterator[str]:
    for start in range(0, len(text), 3):
        yield text[start : start + 3]


# Tabs and other white space, parts of line ends, terminal controls, text of no or two columns, half a character
ODD = "\t\r\x0b\x0c\x1c\x85\u2028\xa0\u2003\u3000\x00\x07\x08\x1b\x7f\u202e\u200b\u200d\ufe0f\u030190❤👩🏽🇩🇪\ud83d"


@given(st.text(st.sampled_from("ab \n日🎉") | st.sampled_from(ODD), max_size=120), st.integers(8, 30))
@example("\tmuch of a line that is wide\n", 16)
def test_growing_text_is_settled_line_by_line_and_none_of_it_is_lost(text: str, width: int) -> None:
    console = OutputConsole(io.StringIO())
    console.width = 24 + width  # the text's own column is then `width` wide
    rows = Rows(console)
    settled: list[str] = []
    rest = ""
    for piece in growing(text):
        lines, rest = settled_lines(rest + piece, lambda paragraph: rows.wrap(paragraph, CONTINUED))
        settled += lines

    assert "".join("".join([*settled, printable(rest)]).split()) == "".join(printable(text).split())


def test_the_end_of_a_line_that_comes_in_two_halves_is_one() -> None:
    rows = Rows(OutputConsole(io.StringIO()))
    settled: list[str] = []
    rest = ""
    for piece in ("one\r", "\n", "\r", "\n\ttwo", "\r\nthree"):
        lines, rest = settled_lines(rest + piece, lambda paragraph: rows.wrap(paragraph, CONTINUED))
        settled += lines

    assert [*settled, rest] == ["one", "", "    two", "three"]


def test_settled_lines_fit_and_the_last_one_is_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(console_of(80, monkeypatch))
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"

    lines, rest = settled_lines(words, lambda paragraph: rows.wrap(paragraph, CONTINUED))

    assert lines == ["one two three four five six seven eight nine ten eleven "]
    assert rest == "twelve thirteen fourteen"
    assert all(cell_len(line.rstrip()) <= 56 for line in lines)


@pytest.mark.parametrize("seconds", [0.0, 9.94, 100, 3_725])
def test_times_of_rows_stand_in_one_column(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    console = console_of(80, monkeypatch)
    Rows(console).print(seconds, Look("◆", "*", "human"), "text")

    (line,) = lines_of(console)
    assert line[8:] == " ◆ human        text"
    assert line[:8].strip() == {0.0: "0.0s", 9.94: "9.9s", 100: "1:40", 3_725: "1:02:05"}[seconds]


def test_a_table_of_nothing_has_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_of(80, monkeypatch)
    print_table(console, [Column[str](title="ID", cell=str), Column[str](title="NOTE", cell=str, rank=1)], [])

    assert lines_of(console) == ["ID"]


def test_a_table_drops_what_matters_least_and_cuts_what_can_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def table(columns: int) -> list[str]:
        console = console_of(columns, monkeypatch)
        print_table(
            console,
            [
                Column(title="ID", cell=lambda row: row[0]),
                Column(title="PATH", cell=lambda row: row[1], rank=1, least=8, keep_end=True),
                Column(title="NOTE", cell=lambda row: row[2], rank=2, least=6),
                Column(title="EMPTY", cell=lambda row: "", rank=3),
            ],
            [("1", "lib/agents.py:graph", "a long note"), ("2", "a.py:b", "")],
        )
        return lines_of(console)

    assert table(80) == [
        "ID  PATH                 NOTE",
        "1   lib/agents.py:graph  a long note",
        "2   a.py:b",
    ]
    assert table(32)[1] == "1   lib/agents.py:graph  a long…"
    assert table(25)[1] == "1   …nts.py:graph  a lon…"
    assert table(20)[1] == "1   …y:graph  a lon…"
    assert table(19)[1] == "1   …gents.py:graph"
    assert table(12)[1] == "1   …y:graph"
    assert table(11) == ["ID", "1", "2"]


def event(sequence: int, kind: LifecycleEventType, **payload: Any) -> RunLifecycleEvent:
    when = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(seconds=sequence)
    return RunLifecycleEvent(f"e{sequence}", kind, "r-1", "t-1", sequence, when, payload)


async def test_the_end_waits_for_the_stream_and_what_came_out_stands_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        await timeline.on_event(event(1, LifecycleEventType.RUN_STARTED, agent="agents.py:talk"))
        await timeline.on_event(event(3, LifecycleEventType.RUN_COMPLETED, completion_data={"llm_call_count": 1}))
        await timeline.on_event(event(4, LifecycleEventType.THREAD_STATUS_UPDATED, status="idle"))
        timeline.part(StreamGap(1, 3))
        timeline.finish(
            RunResult("r-1", "t-1", RunStatus.success, output={"answer": 42}), Home("sqlite:///trackside.db")
        )

    rows = [line[9:] for line in lines_of(console)]
    assert rows == [
        "▸ started      agents.py:talk",
        "·              3 pieces of output passed too quickly to be shown",
        '= output       {"answer": 42}',
        "✓ completed    1 model call",
        "· thread       idle",
        "  run          r-1",
        "  thread       t-1",
        "  recorded in  sqlite:///trackside.db",
    ]


async def test_an_outage_is_said_until_more_of_the_run_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline(console_of(80, monkeypatch))
    timeline.away("the server")
    assert timeline._working().label == "waiting"
    await timeline.on_event(event(1, LifecycleEventType.RUN_STARTED))
    assert timeline._working().label == "thinking"
    timeline.away("the server")
    timeline.away("the server")
    timeline.part(StreamPart(1, "custom", "said"))
    assert timeline._working().label == "thinking"
    timeline.stopping("cancelling", "once more to stop at once")
    timeline.away("the server")
    await timeline.on_event(event(2, LifecycleEventType.THREAD_STATUS_UPDATED, status="busy"))
    assert (timeline._working().label, timeline._hint) == ("cancelling", "once more to stop at once")
    timeline.away("the server")
    timeline.stopping("stopping", "")
    await timeline.on_event(event(3, LifecycleEventType.THREAD_STATUS_UPDATED, status="busy"))
    assert timeline._working().label == "stopping"


@pytest.mark.parametrize("is_told", [True, False], ids=["then it starts", "nobody says that it starts"])
async def test_what_is_streamed_before_the_start_is_told_stands_behind_it(
    monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        timeline.part(StreamPart(1, "custom", {"number": 1}))
        if is_told:
            opening = [
                event(1, LifecycleEventType.RUN_STARTED, agent="agents.py:talk"),
                event(2, LifecycleEventType.THREAD_STATUS_UPDATED, status="busy"),
            ]
            await timeline.on_events(opening)
        timeline.part(StreamPart(2, "custom", {"number": 2}))
        timeline.finish(RunResult("r-1", "t-1", RunStatus.success), Home("sqlite:///trackside.db"))

    start = ["▸ started      agents.py:talk", "· thread       busy"] if is_told else []
    assert [line[9:] for line in lines_of(console)][:-3] == [
        *start,
        '· custom       {"number": 1}',
        '· custom       {"number": 2}',
    ]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (LifecycleEventType.RUN_COMPLETED, {"status": "interrupted", "interrupts": [{"id": "q", "value": "May I?"}]}),
        (LifecycleEventType.RUN_FAILED, {"error": "no"}),
        (LifecycleEventType.RUN_FAILED, {"status": "timeout", "error": "too long"}),
        (LifecycleEventType.RUN_CANCELLED, {}),
    ],
)
async def test_nothing_came_out_of_a_run_that_is_not_complete(
    monkeypatch: pytest.MonkeyPatch, kind: LifecycleEventType, payload: dict[str, Any]
) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        await timeline.on_event(event(1, kind, completion_data={"last_ai_message": "half an answer"}, **payload))
        timeline.finish(RunResult("r-1", "t-1", RunStatus.error, output="half"), Home("sqlite:///trackside.db"))

    assert "half" not in "\n".join(lines_of(console))


async def test_of_a_state_with_messages_the_answer_came_out(monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_of(200, monkeypatch, screen=False)
    state = {"notes": ["long"], "messages": [{"type": "human", "content": "why?"}, {"type": "ai", "content": "So."}]}
    with Timeline(console) as timeline:
        await timeline.on_event(event(1, LifecycleEventType.RUN_COMPLETED))
        timeline.finish(RunResult("r-1", "t-1", RunStatus.success, output=state), Home("sqlite:///trackside.db"))

    assert [line[9:] for line in lines_of(console)][:2] == ["◇ agent        So.", "✓ completed"]


ANSWER = {"type": "ai", "content": [{"type": "text", "text": "Be"}, "cause."]}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([ANSWER], "Because."),
        ([{"role": "assistant", "content": "Because."}], "Because."),
        ([{"type": "AIMessageChunk", "content": "Because."}], "Because."),
        ([ANSWER, {"type": "tool", "content": "42"}, {"type": "ai", "content": ""}], "Because."),
        ([ANSWER, {"type": "human", "content": "And now?"}], ""),
        ([ANSWER, {"role": "user", "content": "And now?"}], ""),
        ([None, 7, {"type": 7}], ""),
        ("Because.", ""),
        (None, ""),
    ],
)
def test_the_answer_in_a_state_is_what_the_agent_said_after_the_human(messages: Any, text: str) -> None:
    assert last_answer({"messages": messages}) == text


@pytest.mark.parametrize("state", [None, "text", {}, [1]])
def test_a_state_without_messages_has_no_answer(state: Any) -> None:
    assert last_answer(state) == ""


async def test_a_failure_is_said_once_with_the_frames_of_the_agent_and_the_notes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = console_of(200, monkeypatch, screen=False)
    trace = (
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/python3.12/site-packages/langgraph/pregel/main.py", line 1, in astream\n    yield\n'
        '  File "/home/me/agents.py", line 3, in work\n    look_up()\n'
        "LookupError: no\nDuring task with name 'work'\n"
    )
    failed = event(1, LifecycleEventType.RUN_FAILED, error="no", error_type="LookupError", traceback=trace)
    with Timeline(console) as timeline:
        await timeline.on_event(failed)
        timeline.finish(RunResult("r-1", "t-1", RunStatus.error, "no"), Home("sqlite:///trackside.db"))

    assert [line.strip() for line in lines_of(console)][:5] == [
        "0.0s ✗ failed       LookupError: no",
        "Traceback (most recent call last):",
        'File "/home/me/agents.py", line 3, in work',
        "look_up()",
        "During task with name 'work'",
    ]


async def test_an_error_that_no_event_could_tell_is_shown_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        result = RunResult("r-1", "t-1", RunStatus.error, "a required observer failed: the disk is full")
        timeline.finish(result, Home("sqlite:///trackside.db"))

    assert lines_of(console)[0].endswith("✗ error        a required observer failed: the disk is full")


async def test_messages_of_parallel_speakers_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        for sequence, (key, word) in enumerate(itertools.product("ab", ("one ", "two "))):
            timeline.part(StreamPart(sequence, "messages", chunk(word, key, name=f"speaker {key}")))
        timeline.finish(RunResult("r-1", "t-1", RunStatus.success), Home("sqlite:///trackside.db"))

    assert [line[9:] for line in lines_of(console)][:2] == ["◇ speaker a    one two", "◇ speaker b    one two"]


@pytest.mark.parametrize(
    ("trace", "shown"),
    [
        ("shop.errors.SoldOutError: no kettles\n", []),
        (
            (
                'Traceback (most recent call last):\n  File "/home/me/shop.py", line 3, in buy\n    sell()\n'
                "shop.errors.SoldOutError: no kettles\nask again tomorrow\n"
            ),
            [
                "Traceback (most recent call last):",
                '  File "/home/me/shop.py", line 3, in buy',
                "    sell()",
                "ask again tomorrow",
            ],
        ),
    ],
)
async def test_an_error_is_said_once_whatever_module_it_is_of(
    monkeypatch: pytest.MonkeyPatch, trace: str, shown: list[str]
) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        says = {"error": "no kettles", "error_type": "SoldOutError", "traceback": trace}
        await timeline.on_event(event(1, LifecycleEventType.RUN_FAILED, **says))
        timeline.finish(RunResult("r-1", "t-1", RunStatus.error, "no kettles"), Home("sqlite:///trackside.db"))

    first, *others = [line[9:] for line in lines_of(console)][: 1 + len(shown)]
    assert first == "✗ failed       SoldOutError: no kettles"
    assert [line[15:] for line in others] == shown
    assert "\n".join(lines_of(console)).count("no kettles") == 1


@pytest.mark.parametrize(("answer", "shown"), [("one two", 0), ("two", 0), ("one", 1)])
async def test_an_answer_that_was_seen_among_others_is_not_shown_again(
    monkeypatch: pytest.MonkeyPatch, answer: str, shown: int
) -> None:
    console = console_of(200, monkeypatch, screen=False)
    with Timeline(console) as timeline:
        for sequence, (key, word) in enumerate([("a", "one two"), ("b", "the second: two")]):
            timeline.part(
                StreamPart(sequence, "messages", chunk(word, key, name=f"speaker {key}", chunk_position="last"))
            )
        completed = {"last_ai_message": answer}
        await timeline.on_event(event(1, LifecycleEventType.RUN_COMPLETED, completion_data=completed))
        timeline.finish(RunResult("r-1", "t-1", RunStatus.success), Home("sqlite:///trackside.db"))

    assert len([line for line in lines_of(console) if "◇ agent" in line]) == shown, "a part of an old message is none"
