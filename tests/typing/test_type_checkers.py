"""What type checkers accept from users, and what they catch for them.

Each line that a checker must complain about ends in `# rejected`, and no other line may be complained about.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEADER = """
from trackside import (
    CompositeObserver, LifecycleEventType, ObserverBinding, RunLifecycleEvent, RunObserver, RunResult, RunSpec, RunStatus,
    ensure_observer,
)
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import run_virtual

class Observer:
    async def on_event(self, event: RunLifecycleEvent) -> None: ...

async def watch(event: RunLifecycleEvent) -> None: ...
"""

SNIPPETS = {
    "accepted": """
ensure_observer(watch)
ensure_observer(Observer())
ensure_observer(None)
CompositeObserver([Observer(), ObserverBinding(Observer(), required=True)]).add(watch)
BufferedObserver(watch)
RunSpec("chat", None, thread_id="t")
""",
    "sync_function": """
def prints(event: RunLifecycleEvent) -> None: ...
ensure_observer(prints)  # rejected
CompositeObserver([prints])  # rejected
ObserverBinding(prints)  # rejected
CompositeObserver().add(prints)  # rejected
BufferedObserver(prints)  # rejected
""",
    "wrong_event_type": """
async def counts(event: int) -> None: ...
ensure_observer(counts)  # rejected
CompositeObserver().add(counts)  # rejected
""",
    "wrong_number_of_arguments": """
async def two(event: RunLifecycleEvent, more: str) -> None: ...
async def none() -> None: ...
ensure_observer(two)  # rejected
ensure_observer(none)  # rejected
""",
    "wrong_result": """
async def five(event: RunLifecycleEvent) -> int:
    return 5
ensure_observer(five)  # rejected
""",
    "async_generator": """
from collections.abc import AsyncIterator
async def streams(event: RunLifecycleEvent) -> AsyncIterator[int]:
    yield 1
ensure_observer(streams)  # rejected
""",
    "sync_method": """
class Sync:
    def on_event(self, event: RunLifecycleEvent) -> None: ...
ensure_observer(Sync())  # rejected
ObserverBinding(Sync())  # rejected
CompositeObserver([Sync()])  # rejected
observer: RunObserver = Sync()  # rejected
""",
    "wrong_method": """
class Wrong:
    async def on_event(self, event: str) -> None: ...
class Misspelt:
    async def on_events(self, event: RunLifecycleEvent) -> None: ...
ensure_observer(Wrong())  # rejected
ensure_observer(Misspelt())  # rejected
""",
    "not_observers": """
ensure_observer(5)  # rejected
ensure_observer("watch")  # rejected
ensure_observer(Observer)  # rejected
CompositeObserver([None])  # rejected
CompositeObserver([5])  # rejected
ObserverBinding(None)  # rejected
BufferedObserver(None)  # rejected
""",
    "required_by_position": """
CompositeObserver().add(Observer(), True)  # rejected
""",
    "event_is_frozen": """
async def changes(event: RunLifecycleEvent) -> None:
    event.sequence = 2  # rejected
    event.payload["a"] = 1  # rejected
    event.payloads  # rejected
""",
    "binding_is_frozen": """
ObserverBinding(Observer()).required = True  # rejected
""",
    "result_needs_a_status": """
RunResult("run", "thread")  # rejected
RunResult("run", "thread", "success")  # rejected
RunResult("run", "thread", RunStatus.success).status = "error"  # rejected
""",
    "unknown_members": """
RunStatus.done  # rejected
LifecycleEventType.RUN_PAUSED  # rejected
""",
    "spec": """
RunSpec()  # rejected
RunSpec("chat", None, "thread")  # rejected
RunSpec("chat", thread="t")  # rejected
RunSpec("chat", timeout="5")  # rejected
RunSpec("chat", metadata=[1])  # rejected
RunSpec("chat").thread_id = "t"  # rejected
""",
    "buffer_options": """
BufferedObserver(watch, 10)  # rejected
BufferedObserver(watch, capacity="10")  # rejected
BufferedObserver(watch).flush()  # rejected
""",
    "virtual_run": """
async def five() -> int:
    return 5
text: str = run_virtual(five())  # rejected
run_virtual(five)  # rejected
""",
}


@pytest.fixture(scope="module")
def snippets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    for name, snippet in SNIPPETS.items():
        (folder / f"{name}.py").write_text(HEADER + snippet)
    return folder


def marked(name: str) -> set[int]:
    lines = (HEADER + SNIPPETS[name]).splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# rejected")}


def mypy(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary"]
    return subprocess.run([*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=False)


def pyright(*paths: Path) -> dict[str, set[int]]:
    """The lines that pyright reports errors on, by the name of the file without its ending."""
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, paths)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found: dict[str, set[int]] = {}
    for it in json.loads(result.stdout)["generalDiagnostics"]:
        if it["severity"] == "error":
            found.setdefault(Path(it["file"]).stem, set()).add(it["range"]["start"]["line"] + 1)
    return found


@pytest.fixture(scope="module")
def by_mypy(snippets: Path) -> dict[str, set[int]]:
    result = mypy(snippets)
    assert not result.stderr
    found: dict[str, set[int]] = {}
    for name, line in re.findall(r"(\w+)\.py:(\d+): error:", result.stdout):
        found.setdefault(name, set()).add(int(line))
    return found


@pytest.fixture(scope="module")
def by_pyright(snippets: Path) -> dict[str, set[int]]:
    return pyright(snippets)


@pytest.mark.parametrize("name", SNIPPETS)
def test_mypy_rejects_the_marked_lines_and_no_others(name: str, by_mypy: dict[str, set[int]]) -> None:
    assert by_mypy.get(name, set()) == marked(name)


@pytest.mark.parametrize("name", SNIPPETS)
def test_pyright_rejects_the_marked_lines_and_no_others(name: str, by_pyright: dict[str, set[int]]) -> None:
    assert by_pyright.get(name, set()) == marked(name)


def test_mypy_agrees_with_every_typing_test() -> None:
    result = mypy(ROOT / "typing_tests")

    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def test_pyright_agrees_with_every_typing_test() -> None:
    assert pyright(ROOT / "typing_tests") == {}
