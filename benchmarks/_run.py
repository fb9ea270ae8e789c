"""Runs benchmarks one after another, each in a process of its own, and then makes the report from what they wrote.

    python _run.py                        lists what there is
    python _run.py NAME… [-- ARGUMENT…]   runs some, or all of them: `all`
    python _run.py report [-- ARGUMENT…]  makes the report alone, of what was measured before

What follows -- goes to the benchmarks as it is.
"""

import argparse
import ast
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from _page import write_report
from _report import PARTIAL, RESULTS
from _results import benchmarks

ALL, REPORT = "all", "report"
_MOST_SECONDS = 3_600
"""What one benchmark may take: one that hangs does not stop the others."""
_TIDY_UP_SECONDS = 60


def listing() -> str:
    """One line for each benchmark."""
    lines = {name: (ast.get_docstring(ast.parse(path.read_text())) or "") for name, path in benchmarks().items()}
    lines |= {ALL: "All of these, and then the report.", REPORT: "The report alone, of what was measured before."}
    return "\n".join(f"{name:<20} {text.splitlines()[0]}" for name, text in lines.items())


def run(name: str, arguments: Sequence[str]) -> tuple[int, str | None]:
    """Run one benchmark; returns its exit code, and why it failed, None if it did not."""
    with subprocess.Popen([sys.executable, benchmarks()[name], *arguments], start_new_session=True) as process:
        try:
            code = process.wait(_MOST_SECONDS)
        except subprocess.TimeoutExpired:
            _stop(process)
            return 1, f"not done after {_MOST_SECONDS:,} s"
        except BaseException:
            _stop(process)
            raise
    if code < 0:
        return 1, signal.Signals(-code).name
    return code, f"exit code {code}" if code else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Have it stop its servers and itself, as Ctrl-C at the keyboard does."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_TIDY_UP_SECONDS)
    process.kill()


def results_of(arguments: Sequence[str]) -> Path | None:
    """Where benchmarks with these arguments write; None if they write nothing."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", type=Path)
    given, rest = parser.parse_known_args(arguments)
    results: Path | None = given.results
    is_partial = any(argument.partition("=")[0] in {f"--{name}" for name in PARTIAL} for argument in rest)
    return results or (None if given.quick or is_partial else RESULTS)


def main() -> int:
    typed = sys.argv[1:]
    end = typed.index("--") if "--" in typed else len(typed)
    names, arguments = typed[:end], typed[end + 1 :]
    if not names:
        print(listing())
        return 0
    if unknown := [name for name in names if name not in {*benchmarks(), ALL, REPORT}]:
        print(f"bench: there is no benchmark “{unknown[0]}”; there are:\n{listing()}", file=sys.stderr)
        return 2
    chosen = [*benchmarks()] if ALL in names else [name for name in names if name != REPORT]
    failed: dict[str, str] = {}
    code = 0
    for number, name in enumerate(chosen, 1):
        begun = time.monotonic()
        print(f"\n== {name} ({number} of {len(chosen)})\n", flush=True)
        code, why = run(name, arguments)
        if why is not None:
            failed[name] = why
        print(f"\n{name}: {why or 'done'}, {time.monotonic() - begun:,.0f} s", file=sys.stderr, flush=True)
    if not {"-h", "--help"} & {*arguments} and (results := results_of(arguments)) is not None:
        print(f"report: {write_report(results)}", file=sys.stderr)
    for name, why in failed.items():
        print(f"bench: {name} failed: {why}", file=sys.stderr)
    return code if len(chosen) == 1 else int(bool(failed))  # a single one may tell more than that it failed


if __name__ == "__main__":
    sys.exit(main())
