"""What the kit says of an adapter or observer with one of the usual mistakes tells its author what the mistake is."""

from typing import Any

import pytest
from tests.contract.mutants import agents, observers
from tests.contract.mutants.agents import Sound

from trackside.harness.context import AgentResult, RunContext

pytest_plugins = ["pytester"]


class RunsWithoutAsync(Sound):
    def run(self, run: RunContext) -> AgentResult:  # type: ignore[override]
        return AgentResult(output="well")


class RunsWithAnArgumentMore(Sound):
    async def run(self, run: RunContext, input: Any) -> AgentResult:  # type: ignore[override]
        return await super().run(run)


class ReadsNoMessages(Sound):
    async def human_messages(self, run: RunContext) -> None:  # type: ignore[override]
        return None


class GivesItsOutputAlone(Sound):
    async def run(self, run: RunContext) -> Any:
        return (await super().run(run)).output


class ClosesWithoutAsync(observers.Sound):
    def aclose(self) -> None:  # type: ignore[override]
        self.closed = True


class FlushesWithoutATimeout(observers.Sound):
    async def flush(self) -> Any:  # type: ignore[override]
        return self.stats()


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the plugins of all packages installed here would take most of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def said_of(story: str, pytester: pytest.Pytester) -> str:
    """What the kit says of a story in `test_suite.py`, which fails."""
    options = ("-p", "pytest_trackside", "-p", "no:cacheprovider")
    _, _, (report, *_) = pytester.inline_run(*options, f"test_suite.py::TestSuite::{story}").listoutcomes()
    return str(report.longrepr.reprcrash.message.splitlines()[0])


CLOSES = "test_closes_as_often_as_asked_and_loses_nothing_silently_after_it"
FLUSHES = "test_flush_reports_and_may_be_repeated"
FAILS, ANSWERS = "test_what_an_agent_raises_is_told_as_it_is", "test_the_output_is_plain_json"


@pytest.mark.parametrize(
    ("kind", "story", "words"),
    [
        (RunsWithoutAsync, FAILS, "told as TypeError instead of Broken: "),
        (RunsWithoutAsync, ANSWERS, "gave nothing back: object AgentResult "),
        (RunsWithAnArgumentMore, FAILS, "missing 1 required positional argument: 'input'"),
        (RunsWithAnArgumentMore, ANSWERS, "missing 1 required positional argument: 'input'"),
        (ReadsNoMessages, FAILS, "'NoneType' object is not iterable"),
        (ReadsNoMessages, ANSWERS, "'NoneType' object is not iterable"),
        (GivesItsOutputAlone, ANSWERS, "it is a str, not an AgentResult"),
        (ClosesWithoutAsync, CLOSES, "aclose raised TypeError: "),
        (FlushesWithoutATimeout, FLUSHES, "flush() takes 1 positional argument but 2 were given"),
    ],
)
def test_an_authors_mistake_is_named(pytester: pytest.Pytester, kind: type, story: str, words: str) -> None:
    room = agents if issubclass(kind, Sound) else observers
    pytester.makepyfile(
        test_suite=f"""
        from {kind.__module__} import {kind.__name__}
        from {room.__name__} import suite

        TestSuite = suite({kind.__name__})
        """
    )
    assert words in said_of(story, pytester)


def test_a_misspelt_agent_is_no_agent_that_a_framework_cannot_have(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_suite=f"""
        import pytest
        from tests.contract.agents.callables_scripts import CallablesScripts
        from {agents.__name__} import AgentContract

        class Misspelt:
            model, says, aks = CallablesScripts.model, CallablesScripts.says, CallablesScripts.asks

        class TestSuite(AgentContract):
            @pytest.fixture
            def agents(self):
                return Misspelt()
        """
    )
    says = said_of(ANSWERS, pytester)
    assert "Misspelt has no remembers, calls_tool, " in says
    assert " asks, " in says
    assert "set it to None if the framework cannot do that" in says
