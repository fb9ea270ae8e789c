"""How many instructions one event or run takes, counted by callgrind: a figure that a busy machine does not change.

Each piece of work is counted after it has been done for a while, and so many times that occasional work, such as
copying what SQLite has written beside its file, comes often enough not to matter. A short one is counted in parts, whose
objects lie elsewhere in memory, and the least counts.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from _counted import KINDS, MARK, WORKS, works_of
from _report import HERE, Bars, Budget, Report, machine, options_of, publish, table
from _rounds import Effort, Race

EFFORT = Effort(rounds=2, seconds=0)
BASELINE = HERE / "instructions.json"
TOLERANCES = {one.words: one.tolerance for one in WORKS}
PACKAGES = ("sqlalchemy", "msgspec", "uuid-utils")
"""Packages whose code is counted, too: with other versions the figures are others."""

ABOVE, NOT_COMPARABLE = 1, 2
"""Exit codes of a comparison."""


def counted(share: float) -> dict[str, float]:
    """Count the instructions for doing each piece of work once."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # other threads do not change a count
        return {
            name: count for found in threads.map(partial(_counted_of, share), KINDS) for name, count in found.items()
        }


def _counted_of(share: float, kind: str) -> dict[str, float]:
    """Count one kind in a process of its own: what other kinds leave behind in its memory would count, too."""
    works = works_of(kind)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        command = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={out}", f"--dump-before=*{MARK}*"]
        subprocess.run(
            [*command, sys.executable, HERE / "_counted.py", str(share), kind],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
        # Of each pair of output parts, the first is what came before the work.
        parts = (_count_in(Path(f"{out}.{2 * number + 2}")) for number in count())
        return {one.words: round(min(islice(parts, one.parts)) / one.times_of(share), 1) for one in works}


def _count_in(path: Path) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("summary:"))


def counted_with() -> dict[str, object]:
    """What must be equal for figures to be compared: the interpreter's build, what it runs besides our code, and the
    processor: the same code took up to 4 % more instructions on one of another make, where it also ran slower.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    facts = machine(PACKAGES)
    return {
        "python": f"{platform.python_implementation()} {python}, {platform.python_compiler()}, {platform.machine()}",
        "packages": facts["packages"],
        "cpu": facts["cpu"],
    }


def baselines() -> list[dict[str, Any]]:
    """All that were counted: one for each processor, with the same interpreter and libraries."""
    known: list[dict[str, Any]] = json.loads(BASELINE.read_text())
    return known


def baseline_of(known: Iterable[Mapping[str, Any]]) -> Mapping[str, float] | None:
    """The figures that were counted in an environment like this one."""
    now = counted_with()
    return next((one["instructions"] for one in known if {key: one[key] for key in now} == now), None)


def with_baseline(found: Mapping[str, float], known: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The baselines with these figures as that of this environment; those that nothing can be compared with any more,
    as the interpreter or the libraries have changed since, are left out.
    """
    now = counted_with()
    others = [
        one for one in known if one["cpu"] != now["cpu"] and all(one[key] == now[key] for key in now if key != "cpu")
    ]
    return sorted([*others, {**now, "instructions": {**found}}], key=lambda one: str(one["cpu"]))


def why_not_comparable(known: Sequence[Mapping[str, Any]]) -> str | None:
    """Why figures of this environment cannot be compared with any baseline; None if they can."""
    if baseline_of(known) is not None:
        return None
    now = counted_with()
    return (
        f"These figures cannot be compared with {BASELINE.name}, which was counted with"
        f" {' and with '.join(str({key: one[key] for key in now}) for one in known)}; this is {now}. "
        "Count the version before in this environment, or write a new baseline with --baseline."
    )


def compared(found: Mapping[str, float], before: Mapping[str, float]) -> tuple[int, str]:
    """The exit code of a comparison with the figures of a baseline, and what to say about it."""
    above = [
        f"{name} takes {value:,.0f} instructions, {value / before[name] - 1:.1%} more than the {before[name]:,.0f} of"
        f" {BASELINE.name}, which allows {TOLERANCES[name]:.0%}."
        for name, value in found.items()
        if value > before[name] * (1 + TOLERANCES[name])
    ]
    return (ABOVE, "\n".join(above)) if above else (0, f"Nothing is further above {BASELINE.name} than it allows.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compare",
        action="store_true",
        help=f"exit with {ABOVE} where {BASELINE.name} is exceeded, and {NOT_COMPARABLE} where it was counted elsewhere;"
        " writes nothing unless --results says where",
    )
    parser.add_argument(
        "--baseline", action="store_true", help=f"write the figures into {BASELINE.name}, as those of this processor"
    )


def report_of(found: Mapping[str, float], before: Mapping[str, float] | None) -> Report:
    """The figures; beside those of the baseline, if there is one that they can be compared with."""
    known = before or {}
    rows = [
        [name, f"{value:,.0f}", *([f"{known[name]:,.0f}", f"{value / known[name] - 1:+.1%}"] if known else ["–", "–"])]
        for name, value in found.items()
    ]
    return Report(
        name="instructions",
        unit="instructions for one event or run",
        race=Race(),
        tables=[table(["one event or run", "instructions", "in the baseline", "more"], rows)],
        budgets=[
            Budget(
                f"{name}: at most {TOLERANCES[name]:.0%} above the baseline",
                known[name] * (1 + TOLERANCES[name]),
                {"instructions": value},
                at_most=True,
            )
            for name, value in found.items()
            if known
        ],
        ours=[*found],
        plots=[
            Bars("one event or run", "instructions", {name: (value, value, value) for name, value in found.items()})
        ],
        packages=PACKAGES,
        how="Counted under callgrind, after warming up; the count for all, divided by their number; of parts, the least.",
        extra={"instructions": found},
    )


def main() -> int:
    options = options_of(__doc__, EFFORT, more=add_arguments)
    if shutil.which("valgrind") is None:
        print(
            "instructions: valgrind is not installed; `apt-get install valgrind` has it on Debian and Ubuntu,"
            " `dnf install valgrind` on Fedora",
            file=sys.stderr,
        )
        return NOT_COMPARABLE
    if options.quick and (options.given.compare or options.given.baseline):
        print(
            "instructions: --quick counts too little to be compared, or to be a baseline; leave it out", file=sys.stderr
        )
        return NOT_COMPARABLE
    known = baselines()
    if options.given.compare:
        if not options.given.baseline and (why := why_not_comparable(known)) is not None:
            print(why, file=sys.stderr)  # before minutes of counting
            return NOT_COMPARABLE
        options = replace(options, results=options.given.results)
    found = counted(0.05 if options.quick else 1)
    if options.given.baseline:
        known = with_baseline(found, known)
        BASELINE.write_text(json.dumps(known, indent=1) + "\n")
    before = baseline_of(known)
    publish(report_of(found, before), options)
    if not options.given.compare or before is None:
        return 0
    code, words = compared(found, before)
    print(words, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
