"""How the conformance kit meets pytest: fixtures, claims, loops, and what a failure says."""

import asyncio
import re
import subprocess
import sys
from typing import Any

import pytest

from trackside.testing import ObserverContract, VirtualTimeLoop
from trackside.testing.contracts._patience import Patience

pytest_plugins = ["pytester"]

OBSERVER = """
import asyncio
from contextlib import asynccontextmanager

import pytest

from trackside.testing import ObserverContract


class Observer:
    def __init__(self):
        self.loop = asyncio.get_running_loop()

    async def on_event(self, event):
        assert asyncio.get_running_loop() is self.loop, "another loop"

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        assert asyncio.get_running_loop() is self.loop, "closed on another loop"
        print("closed")


@asynccontextmanager
async def opened():
    async with Observer() as observer:
        yield observer
"""

FIXTURES = {
    "a coroutine": "async def observer(self): return Observer()",
    "a coroutine that gives a context manager": "async def observer(self): return opened()",
    "an async generator": """async def observer(self):
            async with Observer() as observer:
                yield observer""",
    "a context manager": "def observer(self): return opened()",
    "one that asks for others": "async def observer(self, tmp_path, request): return Observer()",
}


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the plugins of all packages installed here would take most of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, body: str, *options: str) -> tuple[list[Any], list[Any], list[Any]]:
    """The reports of the tests that passed, were skipped and failed."""
    pytester.makepyfile(test_suite=f"{OBSERVER}\n\nclass TestSuite(ObserverContract):\n    {body}\n")
    result = pytester.inline_run("-p", "pytest_trackside", "-p", "no:cacheprovider", *options)
    passed, skipped, failed = result.listoutcomes()
    return list(passed), list(skipped), list(failed)


@pytest.mark.parametrize("mode", ["none", "strict", "auto"])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_fixture_of_any_kind_is_opened_and_closed_on_the_loop_of_its_test(
    pytester: pytest.Pytester, fixture: str, mode: str
) -> None:
    scope = "asyncio_default_fixture_loop_scope=function"
    plugin = () if mode == "none" else ("-p", "pytest_asyncio", "-o", f"asyncio_mode={mode}", "-o", scope)
    passed, _, failed = run(
        pytester, f"@pytest.fixture\n    {FIXTURES[fixture]}", "-k", "payloads or swallowed", *plugin
    )
    assert not failed, failed[0].longreprtext
    assert len(passed) == 2
    assert all("closed" in report.capstdout for report in passed)


def test_the_fixture_may_be_parametrised_and_live_outside_of_the_class(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n@pytest.fixture(params=[1, 2])\nasync def observer(request):\n    from test_suite import Observer\n"
        "    yield Observer()"
    )
    passed, _, failed = run(pytester, "pass", "-k", "payloads")
    assert not failed, failed[0].longreprtext
    assert len(passed) == 2


def test_what_is_not_claimed_is_skipped_with_a_reason(pytester: pytest.Pytester) -> None:
    _, skipped, _ = run(pytester, f"@pytest.fixture\n    {FIXTURES['a coroutine']}", "-k", "every_event_has_its_effect")
    (report,) = skipped
    assert report.longrepr[2] == "Skipped: TestSuite does not claim complete"


def test_a_claim_that_there_is_not_is_an_error() -> None:
    with pytest.raises(
        TypeError, match=r"TestMine.durble is no claim of this contract; its claims are accounts, compl"
    ):
        type("TestMine", (ObserverContract,), {"durble": True})


def test_a_claim_may_be_taken_back_by_a_subclass_of_a_subclass() -> None:
    claims = type("TestMine", (ObserverContract,), {"complete": True})
    assert not type("TestYours", (claims,), {"complete": False}).complete


@pytest.mark.parametrize(
    ("does", "seen"),
    [
        ("raise KeyError('status')", "KeyError: 'status' on run_started 1 of run-"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("await asyncio.Event().wait()", "it did not end within 0.05 s"),
        ("asyncio.current_task().cancel(); await asyncio.sleep(0)", "CancelledError"),
        ("pytest.fail('not like that')", "not like that"),
    ],
)
def test_a_failure_says_in_its_first_line_which_rule_is_broken_and_what_was_seen(
    pytester: pytest.Pytester, does: str, seen: str
) -> None:
    body = f"""patience = 0.05

    @pytest.fixture
    def observer(self):
        class Broken:
            async def on_event(self, event):
                {does}
        return Broken()"""
    _, _, (report,) = run(pytester, body, "-k", "unknown_keys")
    said = report.longrepr.reprcrash.message.splitlines()[0]
    rule = "payloads is broken: keys that nobody knows and a missing status are legal in every payload. Seen: "
    assert said.startswith(f"AssertionError: {rule}{seen}")


GOES_ON = """while True:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        pass"""


@pytest.mark.parametrize(
    ("takes", "closes", "seen"),
    [
        (GOES_ON, "pass", "it did not end within 0.05 s, nor in 0.05 s after it was cancelled, "),
        (
            "await asyncio.Event().wait()",
            "pass",
            "it did not end within 0.05 s; if it only needs longer, set `patience`",
        ),
        ("pass", "await asyncio.Event().wait()", "its fixture was not closed within 0.05 s; if it only needs longer, "),
        ("pass", GOES_ON, "its fixture was not closed within 0.05 s, nor in 0.05 s after it was cancelled, "),
        (
            "raise KeyError('status')",
            GOES_ON,
            "KeyError: 'status' on run_started 1 of .*; and then its fixture was not closed within 0.05 s, nor in ",
        ),
        (
            "self.goes_on = asyncio.create_task(self.__aexit__())",
            GOES_ON.replace("while True", "while not exc"),
            "when all was over and cancelled, something went on, ",
        ),
    ],
)
def test_what_hangs_is_left_behind_and_told_with_the_place_where_it_waits(
    pytester: pytest.Pytester, takes: str, closes: str, seen: str
) -> None:
    body = f"""patience = 0.05

    @pytest.fixture
    def observer(self):
        class Broken:
            async def on_event(self, event):
                {takes}
            async def __aenter__(self):
                return self
            async def __aexit__(self, *exc):
                {closes}
        return Broken()"""
    _, _, failed = run(pytester, body, "-k", "unknown_keys or never_started")
    assert len(failed) == 2, "the next test has a loop of its own"
    lines = [report.longrepr.reprcrash.message.splitlines()[0] for report in failed]
    (said,) = (line for line in lines if line.startswith("AssertionError: payloads is broken: "))
    assert re.search(rf"\. Seen: {seen}.*Waiting (are|were): .*(Broken\.on_event|__aexit__)", said)


LOSES = """try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise RuntimeError("the connection was lost")"""


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize(
    ("takes", "closes", "seen"),
    [
        (LOSES, "pass", "it did not end within 0.05 s"),
        (LOSES.replace("RuntimeError(", "SystemExit("), "pass", "it did not end within 0.05 s"),
        (LOSES.replace("raise RuntimeError", "pytest.fail"), "pass", "it did not end within 0.05 s"),
        ("pass", LOSES, "its fixture was not closed within 0.05 s"),
    ],
)
def test_what_is_late_is_told_so_with_the_place_also_if_its_cancel_becomes_something_else(
    pytester: pytest.Pytester, takes: str, closes: str, seen: str, virtual: bool
) -> None:
    body = f"""patience = 0.05
    virtual_time = {virtual}

    @pytest.fixture
    def observer(self):
        class Broken:
            async def on_event(self, event):
                {takes}
            async def __aenter__(self):
                return self
            async def __aexit__(self, *exc):
                {closes}
        return Broken()"""
    _, _, (report,) = run(pytester, body, "-k", "unknown_keys")
    said = report.longrepr.reprcrash.message.splitlines()[0]
    place = r"if it only needs longer, set `patience`\. Waiting were: .*(Broken\.on_event|__aexit__)"
    assert re.search(rf"\. Seen: {seen}; {place}.*\. Cancelled, it ended with .*the connection was lost", said)


class HaltingLoop(VirtualTimeLoop):
    """The loop of a machine that stands still again and again, so that no two looks at the clock are close together."""

    def time(self) -> float:
        self._virtual_time += 0.1
        return super().time()


def test_what_ends_when_it_is_cancelled_is_told_so_also_where_a_machine_stands_still() -> None:
    patience = Patience(0.05)

    async def is_late() -> None:
        async with patience.limit("it did not end"):
            await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=r"it did not end within 0\.05 s; if it only needs longer, "):
        patience.run(is_late(), HaltingLoop)


def test_what_a_task_raises_when_all_is_over_is_logged_also_where_a_machine_stands_still(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left: list[asyncio.Task[None]] = []

    async def loses() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("the connection was lost")

    async def leaves() -> None:
        left.append(asyncio.create_task(loses()))
        await asyncio.sleep(0)

    Patience(0.05).run(leaves(), HaltingLoop)
    assert left[0].done()
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["the connection was lost"]


async def ends_after_a_halt() -> None:
    """Ends when it is cancelled, once it has had its answers; and the machine stands still just then."""
    try:
        await asyncio.Event().wait()
    finally:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop._virtual_time += 3_600
        for _ in range(3):
            await asyncio.sleep(1)


def test_what_needs_answers_to_end_has_time_for_that_after_a_machine_stood_still() -> None:
    patience = Patience(30)

    async def is_late() -> None:
        async with patience.limit("it did not end"):
            await ends_after_a_halt()

    with pytest.raises(AssertionError, match=r"it did not end within 30 s; if it only needs longer, "):
        patience.run(is_late(), VirtualTimeLoop)


def test_what_is_left_when_all_is_over_has_time_to_end_after_a_machine_stood_still() -> None:
    left: list[asyncio.Task[None]] = []

    async def leave_something() -> None:
        left.append(asyncio.create_task(ends_after_a_halt()))
        await asyncio.sleep(0)

    Patience(30).run(leave_something(), VirtualTimeLoop)
    assert left[0].cancelled()


@pytest.mark.parametrize(
    ("then", "outcome", "is_logged"),
    [("pass", "passed", True), ("raise KeyError('status')", "failed", True), (GOES_ON, "failed", False)],
)
def test_what_a_task_raises_when_all_is_over_and_cancelled_is_logged_if_the_test_did_not_hang(
    pytester: pytest.Pytester, then: str, outcome: str, is_logged: bool
) -> None:
    body = f"""virtual_time = True

    @pytest.fixture
    def observer(self):
        async def flush():
                {LOSES}

        class Left:
            def __init__(self):
                self.flushing = []
            async def on_event(self, event):
                self.flushing.append(asyncio.create_task(flush()))
                await asyncio.sleep(0)
                {then}
        return Left()"""
    reports = run(pytester, body, "-k", "unknown_keys")
    (report,) = [one for those in reports for one in those]
    assert report.outcome == outcome
    assert ("RuntimeError: the connection was lost" in report.caplog) is is_logged


@pytest.mark.parametrize("virtual", [False, True])
@pytest.mark.parametrize(
    ("does", "seen"),
    [("raise KeyError('status')", "KeyError: 'status' on run_started 1 of "), ("pass", "when all was over, its async")],
)
def test_an_async_generator_that_does_not_end_is_told_behind_what_came_before(
    pytester: pytest.Pytester, does: str, seen: str, virtual: bool
) -> None:
    body = f"""patience = 0.05
    virtual_time = {virtual}

    @pytest.fixture
    def observer(self):
        async def endless():
            try:
                yield
            finally:
                await asyncio.Event().wait()

        class Broken:
            async def on_event(self, event):
                if not hasattr(self, "kept"):
                    self.kept = endless()
                    await anext(self.kept)
                {does}
        return Broken()"""
    _, _, (report,) = run(pytester, body, "-k", "unknown_keys")
    assert f"Seen: {seen}" in report.longrepr.reprcrash.message.splitlines()[0]
    late = (
        r"when all was over, its async generators did not end within 0\.05 s\. Waiting were: .*endless → Event\.wait \("
    )
    assert re.search(late, report.longreprtext)


def test_a_thread_that_goes_on_is_not_waited_for_and_told(pytester: pytest.Pytester) -> None:
    over = pytester.path / "over"
    body = f"""patience = 0.05

    @pytest.fixture
    def observer(self):
        import pathlib
        import time

        def work():
            while not pathlib.Path({str(over)!r}).exists():
                time.sleep(0.01)

        class Blocked:
            async def on_event(self, event):
                await asyncio.to_thread(work)
        return Blocked()"""
    try:
        _, _, (report,) = run(pytester, body, "-k", "unknown_keys")
    finally:
        over.touch()
    assert "Seen: it did not end within 0.05 s; " in report.longrepr.reprcrash.message
    assert "when all was over, its threads did not end within 0.05 s. Waiting were: " in report.longreprtext


def test_the_loop_that_a_program_has_set_stays_set(pytester: pytest.Pytester) -> None:
    suite = """
        import asyncio

        import pytest

        from trackside.testing import ObserverContract


        class Observer:
            async def on_event(self, event):
                pass


        @pytest.fixture(scope="module")
        def loop():
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            yield loop
            loop.close()


        def test_before(loop):
            assert asyncio.get_event_loop() is loop


        class TestSuite(ObserverContract):
            @pytest.fixture
            def observer(self):
                return Observer()


        def test_behind(loop):
            assert asyncio.get_event_loop() is loop
    """
    pytester.makepyfile(test_suite=suite)
    options = ("-p", "pytest_trackside", "-p", "no:cacheprovider", "-k", "before or payloads or behind")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=3)


def test_a_fixture_that_never_opens_is_told_so(pytester: pytest.Pytester) -> None:
    body = """patience = 0.05

    @pytest.fixture
    async def observer(self):
        await asyncio.Event().wait()"""
    _, _, (report,) = run(pytester, body, "-k", "unknown_keys")
    assert "Seen: its fixture was not opened within 0.05 s; " in report.longrepr.reprcrash.message


def test_a_fixture_that_gives_something_else_is_told_so(pytester: pytest.Pytester) -> None:
    _, _, (report,) = run(pytester, "@pytest.fixture\n    def observer(self): return 7", "-k", "unknown_keys")
    assert "7 is not an observer" in report.longrepr.reprcrash.message


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import trackside.testing", "pytest"),
        ("import trackside.testing as t; assert not hasattr(t, 'nothing')", "pytest"),
        ("import pytest_trackside", "trackside"),
        ("import pytest_trackside", "asyncio"),
    ],
)
def test_an_import_brings_nothing_that_it_does_not_need(statement: str, unwanted: str) -> None:
    code = f"{statement}\nimport sys\nassert {unwanted!r} not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)  # without what `--stumble` imports


def test_the_kit_is_there_under_the_name_of_its_room() -> None:
    import trackside.testing
    from trackside.testing import contracts

    assert {*trackside.testing._KIT} <= {*trackside.testing.__all__}
    assert all(getattr(trackside.testing, name) is getattr(contracts, name) for name in trackside.testing._KIT)
