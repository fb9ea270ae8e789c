"""Where the time of a run that does nothing goes, module by module, by a sampling profiler in the process itself."""

import asyncio
import dis
import gc
import signal
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from _report import Report, options_of, publish, table
from _rounds import Contender, Effort, race
from memory_runs import JUDGED_AT_ONCE, MANAGED, case_of, contenders

import trackside

EFFORT = Effort(rounds=11, seconds=0.2)
SAMPLES = 10_000
QUICK_SAMPLES = 100
RESUME = dis.opmap["RESUME"]
SAMPLE_EVERY = 0.001  # seconds
PACKAGE = Path(trackside.__file__).parent
MEANING = {
    "harness/worker.py": "the steps of the run; its own supervision",
    "harness/memory.py": "admission, claim, settlement, release; ended runs kept for questions",
    "harness/ids.py": "six ids",
    "harness/manager.py": "start, place, task, handing the result over",
    "harness/admission.py": "checks of what is asked for, the run's record",
    "harness/emitter.py": "four events: identity, number, time",
    "harness/dispatch.py": "the observers, one after another",
    "harness/bounding.py": "the bound around the observer",
    "harness/observer.py": "order and isolation; the events themselves",
    "harness/timelimit.py": "the tasks of agent and observer, which can be stopped and left behind",
    "harness/payload.py": "payloads as plain JSON",
    "harness/journal.py": "tokens, messages, totals",
    "harness/context.py": "what the agent sees of its run",
    "harness/adapters/callables.py": "calling the agent",
    "garbage collector": "young objects of the runs that are under way",
    "generated methods": "frozen dataclasses and named tuples",
    "asyncio": "the event loop",
    "benchmark": "waves of runs, the agent, the observer",
}
SHOWN = 0.01
"""The share from which on a module has a row of its own."""


class Sampler:
    """Counts in which module the process is found, every millisecond."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    @contextmanager
    def sampling(self) -> Generator[None]:
        previous = signal.signal(signal.SIGALRM, self._sample)
        gc.callbacks.append(self._note_collection)
        signal.setitimer(signal.ITIMER_REAL, SAMPLE_EVERY, SAMPLE_EVERY)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            gc.callbacks.remove(self._note_collection)
            signal.signal(signal.SIGALRM, previous)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        # A signal that comes during a collection is delivered in the callback at its end.
        collecting = frame.f_code is Sampler._note_collection.__code__
        self.found["garbage collector" if collecting else module_of(_interrupted(frame))] += 1

    def _note_collection(self, phase: str, info: dict[str, int]) -> None:
        pass


def _interrupted(frame: FrameType) -> FrameType:
    """Where the signal came. Python handles one at the next call, so at the start of a function it came in the caller."""
    at_start = frame.f_code.co_code[frame.f_lasti] == RESUME
    return frame.f_back if at_start and frame.f_back is not None else frame


def module_of(frame: FrameType) -> str:
    """What a frame belongs to, as a row of the table."""
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(PACKAGE):
        return path.relative_to(PACKAGE).as_posix()
    if path.name == "<string>":
        return "generated methods"
    if path.is_relative_to(Path(__file__).parent):
        return "benchmark"
    return "asyncio" if path.parent.name == "asyncio" else "the standard library else"


async def profile(contender: Contender, samples: int) -> Counter[str]:
    """Let the contender work, and look so many times where it is."""
    sampler = Sampler()
    async with contender.open() as work:
        await work(1_000)
        with sampler.sampling():
            while sampler.found.total() < samples:
                await work(JUDGED_AT_ONCE)
    return sampler.found


def table_of(shares: Mapping[str, float], microseconds: float) -> str:
    rows = [
        [name, f"{share * microseconds:.1f}", f"{share:.0%}", MEANING.get(name, "")]
        for name, share in shares.items()
        if share >= SHOWN
    ]
    return table(["module", "µs a run", "share", "what for"], rows, words=(0, 3))


def main() -> None:
    options = options_of(__doc__, EFFORT)
    case = case_of("asyncio", JUDGED_AT_ONCE)
    contender = next(c for c in contenders() if (c.name, c.case) == (MANAGED[1], case))
    result = race([contender], options.effort)
    found = asyncio.run(profile(contender, QUICK_SAMPLES if options.quick else SAMPLES))
    shares = {name: count / found.total() for name, count in found.most_common()}
    report = Report(
        name="run_profile",
        unit="nanoseconds for one run",
        race=result,
        tables=[f"{contender.name}, {case}:", table_of(shares, result.cost(contender, "cpu").median / 1e3)],
        extra={"shares": {name: round(share, 4) for name, share in shares.items()}},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
