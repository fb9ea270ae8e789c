"""Where time and memory of the hottest paths go, by py-spy and memray."""

import asyncio
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from _hot_paths import NAMES, working
from _report import Bars, Report, options_of, publish, table
from _rounds import Effort, Race
from memray import FileReader

import trackside

EFFORT = Effort(rounds=2, seconds=8.0)
SAMPLES_A_SECOND = 500
SHOWN, KEPT = 8, 20
"""How many modules a table shows, and how many the JSON has: those with the largest shares."""
_PACKAGE = Path(trackside.__file__).parent
_LIBRARIES = Path(sysconfig.get_path("purelib"))
_STANDARD = Path(sysconfig.get_path("stdlib"))

type Place = tuple[str, str]
"""A module and a function in it; what C code does counts as its caller's."""


@dataclass(frozen=True, slots=True)
class Part:
    """A module's share of the whole."""

    module: str
    share: float
    hottest: str
    """The function in it with the largest share."""


def parts(found: Iterable[tuple[Place, int]]) -> list[Part]:
    """The shares by module, the largest first."""
    modules: Counter[str] = Counter()
    functions: dict[str, Counter[str]] = {}
    for (module, function), count in found:
        modules[module] += count
        functions.setdefault(module, Counter())[function] += count
    total = modules.total()
    return [
        Part(module, count / total, functions[module].most_common(1)[0][0]) for module, count in modules.most_common()
    ]


@cache
def module_of(file: str) -> str:
    """A file of Trackside, a package, or a part of the standard library."""
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        return path.relative_to(_PACKAGE).as_posix()
    if path.is_relative_to(_LIBRARIES):
        return path.relative_to(_LIBRARIES).parts[0].removesuffix(".py")
    if path.is_relative_to(_STANDARD):
        return path.relative_to(_STANDARD).parts[0].removesuffix(".py")
    if path.is_relative_to(Path(__file__).parent):
        return "benchmark"
    return "generated code" if file.startswith("<") else path.name


async def time_of(name: str, seconds: float) -> list[Part]:
    """Where py-spy finds the thread that has the GIL: waiting, and what SQLite does without the GIL, is left out."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "samples"
        async with working(name) as pid:
            command = [
                "py-spy",
                "record",
                "--pid",
                str(pid),
                "--format",
                "raw",
                "--output",
                str(out),
                "--full-filenames",
            ]
            command += ["--gil", "--duration", str(max(1, round(seconds))), "--rate", str(SAMPLES_A_SECOND)]
            await _run([str(Path(sys.executable).with_name(command[0])), *command[1:]])
        return parts(_samples(out.read_text().splitlines()))


def _samples(lines: Sequence[str]) -> Iterable[tuple[Place, int]]:
    """Read lines like `outer (file:1);inner (file:2) 17`."""
    for line in lines:
        stack, _, count = line.rpartition(" ")
        function, _, place = stack.rpartition(";")[2].rpartition(" (")
        yield (module_of(place.rpartition(":")[0]), function), int(count)


async def memory_of(name: str, seconds: float) -> tuple[float, list[Part]]:
    """The MiB that Python and its libraries had allocated at the peak, and who had allocated them."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "allocations"
        async with working(
            name, [sys.executable, "-m", "memray", "run", "--quiet", "--aggregate", "--output", str(out)]
        ):
            await asyncio.sleep(seconds)
        reader = FileReader(str(out))
        peak = [
            (_allocating(record.stack_trace()), record.size)
            for record in reader.get_high_watermark_allocation_records(merge_threads=True)
        ]
        return sum(size for _, size in peak) / 1_048_576, parts(peak)


def _allocating(stack: Sequence[tuple[str, str, int]]) -> Place:
    """The innermost function; what came with an import belongs to the package that is imported."""
    places = ((module_of(file), function) for function, file, _ in stack if "importlib" not in file)
    module, function = next(places, ("Python itself", ""))
    if all("importlib" not in file for _, file, _ in stack):
        return module, function
    return f"{'Trackside' if _is_ours(module) else module}, imported", "import"


def _is_ours(module: str) -> bool:
    return (_PACKAGE / module).exists()


async def _run(command: Sequence[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {said.decode(errors='replace').strip()}")


def table_of(name: str, time: Sequence[Part], memory: Sequence[Part], peak: float) -> str:
    rows = [
        [*_cells(first), *_cells(second, peak)]
        for first, second in zip(_padded(time), _padded(memory), strict=True)
        if first or second
    ]
    header = [name, "of the GIL's time", "most in", f"of {peak:,.0f} MiB at the peak", "MiB", "most in"]
    return table(header, rows, words=(0, 2, 3, 5))


def _padded(found: Sequence[Part]) -> list[Part | None]:
    return [*found[:SHOWN], *[None] * (SHOWN - len(found))]


def _cells(part: Part | None, peak: float | None = None) -> list[str]:
    if part is None:
        return ["", "", ""]
    figure = f"{part.share:.0%}" if peak is None else f"{part.share * peak:.1f}"
    return [part.module, figure, f"`{part.hottest}`"]


def plot_of(name: str, time: Sequence[Part]) -> Bars:
    percent = {part.module: part.share * 100 for part in time[:SHOWN]}
    return Bars(name, "% of the GIL's time", {module: (share, share, share) for module, share in percent.items()})


async def profiles(seconds: float) -> Mapping[str, tuple[list[Part], float, list[Part]]]:
    """For each path: time by module, MiB at the peak, memory by module."""
    return {name: (await time_of(name, seconds), *await memory_of(name, seconds)) for name in NAMES}


def main() -> None:
    options = options_of(__doc__, EFFORT)
    found = asyncio.run(profiles(options.effort.seconds))
    modules = {part.module for time, _, _ in found.values() for part in time}
    report = Report(
        name="profiles",
        unit="share of samples",
        race=Race(),
        tables=[table_of(name, time, memory, peak) for name, (time, peak, memory) in found.items()],
        ours=sorted(filter(_is_ours, modules)),
        plots=[plot_of(name, time) for name, (time, _, _) in found.items()],
        packages=["py-spy", "memray"],
        how=f"{options.effort.seconds:g} s of each, {SAMPLES_A_SECOND} samples a second, and as long under memray.",
        extra={
            "profiles": {
                name: {
                    "time": [asdict(part) for part in time[:KEPT]],
                    "peak_mib": peak,
                    "memory": [asdict(part) for part in memory[:KEPT]],
                }
                for name, (time, peak, memory) in found.items()
            }
        },
    )
    publish(report, options)


if __name__ == "__main__":
    main()
