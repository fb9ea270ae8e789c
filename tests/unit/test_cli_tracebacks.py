"""Which frames of a traceback the command line shows."""

import sys
import sysconfig
from pathlib import Path

import pytest

from trackside.app.cli.views.tracebacks import without_libraries, without_machinery

OURS = str(Path(sys.modules["trackside"].__file__ or "").parent)

TRACE = f"""\
Traceback (most recent call last):
  File "{OURS}/app/wiring/agents.py", line 10, in load
    first()
  File "<frozen importlib._bootstrap>", line 1387, in _gcd_import
  File "/home/me/agents.py", line 3, in <module>
    value = {{
            ^
KeyError: 'missing'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "{OURS}/harness/worker.py", line 20, in run
    second()
    ~~~~~~^^
ValueError: ours alone
"""


def test_frames_that_are_ours_are_left_out_and_headers_that_head_nothing() -> None:
    assert without_machinery(TRACE) == (
        "Traceback (most recent call last):\n"
        '  File "/home/me/agents.py", line 3, in <module>\n'
        "    value = {\n"
        "            ^\n"
        "KeyError: 'missing'\n"
        "\n"
        "The above exception was the direct cause of the following exception:\n"
        "\n"
        "ValueError: ours alone\n"
    )


def test_groups_of_exceptions_lose_our_frames_too() -> None:
    trace = (
        "  + Exception Group Traceback (most recent call last):\n"
        f'  |   File "{OURS}/harness/worker.py", line 20, in run\n'
        "  |     both()\n"
        '  |   File "/home/me/agents.py", line 5, in both\n'
        "  |     raise ExceptionGroup('two', errors)\n"
        "  | ExceptionGroup: two (2 sub-exceptions)\n"
    )

    assert without_machinery(trace) == trace.replace(
        f'  |   File "{OURS}/harness/worker.py", line 20, in run\n  |     both()\n', ""
    )


def trace_of(*paths: str) -> str:
    frames = "".join(f'  File "{path}", line 7, in step\n    call()\n    ~~~~^^\n' for path in paths)
    return f"Traceback (most recent call last):\n{frames}KeyError: 'missing'\nDuring task with name 'step'\n"


@pytest.mark.parametrize(
    "library",
    [
        f"{OURS}/harness/worker.py",
        f"{sysconfig.get_path('stdlib')}/asyncio/tasks.py",
        f"{sysconfig.get_path('purelib')}/langgraph/pregel/main.py",
        "/srv/app/.venv/lib/python3.12/site-packages/langchain_core/runnables/base.py",
        "/usr/lib/python3/dist-packages/yaml/loader.py",
        "/opt/python/lib/python3.14/concurrent/futures/thread.py",
        r"C:\app\.venv\Lib\site-packages\langgraph\pregel\main.py",
        "<frozen runpy>",
    ],
)
def test_of_a_failing_run_the_agents_own_frames_are_left(library: str) -> None:
    own = ("/home/me/agents.py", "/home/me/python3.12/library.py")

    assert without_libraries(trace_of(library, own[0], library, library, own[1], library)) == trace_of(*own)


def test_where_an_agent_is_itself_an_installed_package_only_our_frames_go() -> None:
    installed = ("/srv/lib/python3.12/site-packages/agents.py", "/srv/lib/python3.12/asyncio/tasks.py")

    assert without_libraries(trace_of(f"{OURS}/harness/worker.py", *installed)) == trace_of(*installed)


def test_a_recursion_goes_with_its_frame() -> None:
    repeated = "  [Previous line repeated 990 more times]\n"
    head, frame, rest = trace_of("/home/me/agents.py").partition("    ~~~~^^\n")
    library = '  File "/usr/lib/python3.12/json/encoder.py", line 1, in walk\n    walk()\n'

    assert without_libraries(head + frame + repeated + library + repeated + rest) == head + frame + repeated + rest
