"""Each event becomes a line at a sensible level, whatever text is in it, and no log holds up a run."""

import asyncio
import json
import logging
import math
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.unit.logged_lines import failed, made

from trackside import LifecycleEventType, RunLifecycleEvent, RunManager, RunSpec, RunStatus
from trackside.app.delivery import ObserverOptionError
from trackside.app.observers.logging import LoggingObserver, add_run_fields
from trackside.harness.running.logs import RunFieldsFilter
from trackside.testing.events import make_event, make_run

HOSTILE = 'a\nERROR forged line\r\n\x1b[31mred\x1b[0m \x00 \u2028 \u2029 \x85 \u202e "quoted" {"b": 1} \ud83d'


@asynccontextmanager
async def logging_to(file: Path, **options: Any) -> AsyncIterator[LoggingObserver]:
    observer = await made(file, **options)
    yield observer
    await observer.aclose()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


class Kept(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.addFilter(RunFieldsFilter())

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler, logger = Kept(), logging.getLogger("trackside.runs")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def configured_structlog() -> Iterator[list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []

    def keep(logger: Any, method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        said.append({"method": method, **event_dict})
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, add_run_fields, keep])
    yield said
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("event", "level", "message"),
    [
        (make_run()[0], "info", "run started"),
        (make_run()[1], "info", "thread status updated"),
        (make_run()[2], "debug", "human message"),
        (make_run()[3], "info", "run completed"),
        (make_run(status=RunStatus.interrupted)[3], "info", "run waits for an answer"),
        (make_run(status=RunStatus.error)[3], "error", "run failed"),
        (make_run(status=RunStatus.timeout)[3], "warning", "run timed out"),
        (make_run(status=RunStatus.cancelled)[3], "warning", "run cancelled"),
    ],
)
async def test_each_event_has_one_line_at_a_sensible_level(
    event: RunLifecycleEvent, level: str, message: str, tmp_path: Path
) -> None:
    async with logging_to(tmp_path / "log", level="debug") as observer:
        await observer.on_event(event)
    (line,) = lines(tmp_path / "log")
    assert (line["level"], line["message"], line["logger"]) == (level, message, "trackside.runs")
    assert (line["run_id"], line["thread_id"]) == (event.run_id, event.thread_id)
    assert (line["event_type"], line["sequence"]) == (event.event_type.value, event.sequence)
    assert line["time"] == event.occurred_at.isoformat()


async def test_a_line_says_what_a_run_used_and_why_it_failed(tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log") as observer:
        await observer.on_event(failed("it broke\nin two lines"))
    (line,) = lines(tmp_path / "log")
    said = {name: line[name] for name in ("agent", "status", "error_type", "error", "total_tokens", "cost_usd")}
    assert said == {
        "agent": "support",
        "status": "error",
        "error_type": "ValueError",
        "error": "it broke …",
        "total_tokens": 52,
        "cost_usd": 0.5,
    }
    assert line["duration_seconds"] == 1.5


@pytest.mark.parametrize("format", ["json", "console"])
async def test_no_text_of_an_agent_makes_a_line_of_its_own_or_moves_a_cursor(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    monkeypatch.setattr(logging.getLogger("hostile"), "propagate", False)  # no test report can contain such a text
    hostile = RunLifecycleEvent(HOSTILE, LifecycleEventType.RUN_FAILED, HOSTILE, HOSTILE, 1, failed().occurred_at, {})
    async with logging_to(file, format=format, content=True, loggers=["hostile"]) as observer:
        for name in ("agent", "error", "error_type", "reason", "cancel_mode"):
            await observer.on_event(failed(**{name: HOSTILE}))
        await observer.on_event(failed(completion_data={"last_ai_message": HOSTILE}))
        await observer.on_event(hostile)
        logging.getLogger("hostile").error("%s", HOSTILE, extra={"extra": HOSTILE, "more": {HOSTILE: [HOSTILE]}})
    text = file.read_bytes().decode()
    assert len(text.splitlines()) == text.count("\n") == 8
    assert not re.search(r"[^\n\x20-\x7e\u00a1-\u200d\u2010-\u2027\u2030-\uffff]", text)
    if format == "json":
        assert all(line["level"] == "error" for line in lines(file))
        assert lines(file)[-1]["message"] == HOSTILE.replace("\ud83d", "\ufffd")


@pytest.mark.parametrize("content", [False, True])
async def test_what_people_and_models_said_is_quoted_only_if_asked_for(content: bool, tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log", level="debug", content=content) as observer:
        says = {"message": {"id": "m", "type": "human", "content": "my secret"}}
        await observer.on_event(make_event(payload=says))
        data = {"first_human_message": "my secret", "last_ai_message": "the answer " + "x" * 1_000}
        await observer.on_event(make_event(LifecycleEventType.RUN_COMPLETED, payload={"completion_data": data}))
    text = (tmp_path / "log").read_text()
    assert ("my secret" in text) is ("the answer" in text) is content
    assert max(map(len, text.splitlines())) < 1_500


async def test_less_than_the_level_is_not_said(tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log", level="warning") as observer:
        for event in (*make_run(), failed()):
            await observer.on_event(event)
    assert [line["message"] for line in lines(tmp_path / "log")] == ["run failed"]


async def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "log"
    async with logging_to(file) as observer:
        await observer.on_event(failed())
        await observer.flush(10)
        file.rename(tmp_path / "log.1")
        await observer.on_event(failed())
        await observer.on_event(failed())
    assert (len(lines(tmp_path / "log.1")), len(lines(file))) == (1, 2)


async def test_what_is_there_already_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        async with logging_to(tmp_path / "log") as observer:
            await observer.on_event(failed())
    assert len(lines(tmp_path / "log")) == 2


async def test_the_console_format_is_read_by_people(tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log", format="console") as observer:
        await observer.on_event(failed())
    text = (tmp_path / "log").read_text()
    assert re.match(r"\d\d:\d\d:\d\d ERROR    run failed  run_id=run-1 thread_id=thread-1 agent=support ", text)
    assert 'error="it broke" duration_seconds=1.5' in text


async def test_without_a_format_lines_go_to_the_programs_logging_with_their_fields(kept: Kept) -> None:
    observer = LoggingObserver()
    for event in (*make_run(), failed()):
        await observer.on_event(event)
    await observer.aclose()
    assert [record.levelname for record in kept.records] == ["INFO", "INFO", "DEBUG", "INFO", "INFO", "ERROR"]
    last = vars(kept.records[-1])
    assert kept.records[-1].getMessage() == "run failed after 1.50 s (run-1): ValueError: it broke"
    assert (last["run_id"], last["thread_id"], last["agent"]) == ("run-1", "thread-1", "support")
    assert (last["event_type"], last["total_tokens"]) == ("run_failed", 52)


async def test_lines_go_to_structlog_if_the_program_has_configured_it(
    configured_structlog: list[dict[str, Any]], kept: Kept
) -> None:
    observer = LoggingObserver()
    with structlog.contextvars.bound_contextvars(service="billing"):
        await observer.on_event(failed())
    await observer.aclose()
    (line,) = configured_structlog
    assert (line["method"], line["event"], line["run_id"]) == ("error", "run failed", "run-1")
    assert (line["service"], line["agent"], line["error"]) == ("billing", "support", "it broke")
    assert kept.records == []


async def test_lines_go_to_standard_logging_if_told_so(configured_structlog: list[Any], kept: Kept) -> None:
    observer = LoggingObserver(backend="stdlib")
    await observer.on_event(failed())
    await observer.aclose()
    assert (len(kept.records), configured_structlog) == (1, [])


async def test_an_asynchronous_structlog_logger_is_awaited() -> None:
    said: list[str] = []

    def keep(logger: Any, method: str, event_dict: dict[str, Any]) -> dict[str, Any]:
        said.append(event_dict["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.stdlib.AsyncBoundLogger)
    try:
        observer = LoggingObserver()
        await observer.on_event(failed())
        await observer.aclose()
    finally:
        structlog.reset_defaults()
    assert said == ["run failed"]


async def test_a_filter_of_the_program_that_raises_costs_that_line_and_is_said(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        if "broken" in record.getMessage():
            raise RuntimeError("no filter")
        return True

    logging.getLogger("trackside.runs").addFilter(broken)
    observer = LoggingObserver()
    try:
        await observer.on_event(failed("broken"))
        await observer.flush(10)
        await observer.on_event(failed("whole"))
        await observer.aclose()
    finally:
        logging.getLogger("trackside.runs").removeFilter(broken)
    assert (observer.stats().failed, observer.stats().delivered, len(kept.records)) == (1, 1, 1)
    assert "trackside-log-lines could not write: no filter" in caplog.messages


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("through", ["stdlib", "structlog"])
async def test_an_agents_own_lines_say_which_run_they_are_of(
    through: str, in_thread: bool, kept: Kept, configured_structlog: list[dict[str, Any]], tmp_path: Path
) -> None:
    def say() -> None:
        if through == "stdlib":
            logging.getLogger("trackside.runs").info("working")
        else:
            structlog.get_logger().info("working")

    async def agent(input: Any) -> None:
        await (asyncio.to_thread(say) if in_thread else asyncio.sleep(0, say()))

    async with (
        logging_to(tmp_path / "log", loggers=["trackside.runs"]) as observer,
        RunManager({"support": agent}, observers=[observer]) as manager,
    ):
        run = await manager.start(RunSpec("support", "hello"))
        await run.result()
    if through == "stdlib":
        (record,) = kept.records
        assert (vars(record)["run_id"], vars(record)["agent"]) == (run.run_id, "support")
        (line,) = [line for line in lines(tmp_path / "log") if line["message"] == "working"]
        assert (line["run_id"], line["agent"], line["level"]) == (run.run_id, "support", "info")
    else:
        (said,) = configured_structlog
        assert (said["run_id"], said["agent"], said["event"]) == (run.run_id, "support", "working")
    structlog.get_logger().info("outside")
    assert "run_id" not in configured_structlog[-1]


class Rows(int):
    """A number of its own type."""


class Seconds(float):
    """Another such number."""


async def test_lines_of_other_loggers_are_written_with_their_tracebacks_and_no_longer_after_closing(
    tmp_path: Path,
) -> None:
    logger = logging.getLogger("my_agent")
    async with logging_to(tmp_path / "log", loggers=["my_agent"]):
        try:
            raise ValueError("it broke")
        except ValueError:
            logger.exception("could not", extra={"customer": "acme", "rows": Rows(3)})
        logger.debug("less than the level")
    logger.error("afterwards")
    (line,) = lines(tmp_path / "log")
    assert (line["logger"], line["message"]) == ("my_agent", "could not")
    assert (line["customer"], line["rows"]) == ("acme", 3)
    assert line["exception"].endswith("ValueError: it broke")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


async def test_numbers_of_other_loggers_are_numbers_in_json(tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log", loggers=["my_agent"]):
        for took in (1, 0.25, Seconds(0.5), math.inf):
            logging.getLogger("my_agent").info("done", extra={"took": took})
    assert [line["took"] for line in lines(tmp_path / "log")] == [1, 0.25, 0.5, "inf"]


async def test_no_name_of_a_field_makes_a_line_of_its_own(tmp_path: Path) -> None:
    forged = "x\n12:00:00 ERROR    run failed"
    async with logging_to(tmp_path / "log", format="console", loggers=["my_agent"]):
        logging.getLogger("my_agent").info("done", extra={forged: 1, "a=b c": 2})
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert r"x\\n12:00:00 ERROR" in line
    assert '"a=b c"=2' in line


async def test_a_line_is_written_once_where_a_logger_and_those_below_it_are_named(tmp_path: Path) -> None:
    apart = logging.getLogger("my_agent.apart")
    apart.propagate = False
    names = ["my_agent.tools", "my_agent", "my_agent", "my_agent.apart"]
    async with logging_to(tmp_path / "log", loggers=names):
        for name in ("my_agent", "my_agent.tools", "my_agent.apart"):
            logging.getLogger(name).info(name)
    apart.propagate = True
    assert [line["message"] for line in lines(tmp_path / "log")] == ["my_agent", "my_agent.tools", "my_agent.apart"]


@pytest.mark.parametrize(
    ("options", "option", "said"),
    [
        ({"backend": "loguru"}, "backend", '"auto", "structlog", "stdlib"'),
        ({"format": "xml"}, "format", '"json", "console"'),
        ({"format": "json", "level": "loud"}, "level", '"debug", "info", "warning", "error"'),
        ({"content": 1}, "content", "true, false"),
        ({"capacity": 0}, "capacity", "at least 1"),
        ({"file": "log"}, "file", "needs a format"),
        ({"loggers": ["a"]}, "loggers", "needs a format"),
        ({"format": "json", "loggers": "a"}, "loggers", "a list of names"),
        ({"format": "json", "backend": "structlog"}, "backend", "leave it out"),
        ({"format": "json", "file": "/nowhere/log"}, "file", "the folder /nowhere is not there"),
        ({"format": "json", "file": "/"}, "file", "is a folder"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_name(options: dict[str, Any], option: str, said: str) -> None:
    with pytest.raises(ObserverOptionError) as refused:
        LoggingObserver(**options)
    assert refused.value.details["option"] == option
    assert said in str(refused.value)


def test_structlog_that_is_not_installed_is_asked_for_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(ObserverOptionError, match=r"pip install 'trackside\[logging\]'"):
        LoggingObserver(backend="structlog")


async def test_without_structlog_lines_go_to_standard_logging(monkeypatch: pytest.MonkeyPatch, kept: Kept) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    observer = LoggingObserver()
    await observer.on_event(failed())
    await observer.aclose()
    assert len(kept.records) == 1
