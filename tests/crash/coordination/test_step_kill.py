"""SIGKILL at each named step of a run, from admission to end: the next process ends all of it, and truthfully (I1–I7)."""

import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from chain_check import assert_chained
from crash_children import Child, Children
from crash_points import PARTING, RARE_WORKS, RECOVERIES, RETRYING, STEPS, STEPS_OF_RECOVERY, WORKS
from crash_steps import STEPS_OF_RUN
from log_check import assert_whole

AFTER_A_DEATH = {*RECOVERIES, RETRYING, "adopt"}
"""Steps that a process reaches only when another has left something."""
ONCE = {"Register", "Leave", "flush", "close the manager", "close the coordinator"}
KILLS_OF_ONE_DATABASE = 6
SAMPLE = {"sqlite": 12, "postgresql": 4}  # how many of the points, by kind of database

POINTS = [
    *[(moment, name) for name, step in STEPS_OF_RUN.items() for moment in step.moments],
    *product(STEPS, [*WORKS, *RARE_WORKS]),
    *product(STEPS_OF_RECOVERY, [*RECOVERIES, RETRYING]),
    *product(PARTING, ["Leave"]),
]


@dataclass
class Theatre:
    """A database, a folder for its spool, LangGraph's file, and the processes that perform on them."""

    url: str
    folder: Path
    children: Children
    chance: random.Random

    @property
    def graphs(self) -> str:
        return self.url.removeprefix("sqlite:///") if self.url.startswith("sqlite") else str(self.folder / "graphs.db")

    def make(self, kind: str, **options: object) -> Child:
        return self.children.make(kind, self.url, graphs=self.graphs, spool=str(self.folder / "spool"), **options)

    def perform(self, moment: str, step: str, number: int) -> bool:
        """Play one life; returns whether it ended at that point, and not by itself."""
        code = self.make("perform", seed=self.chance.randrange(2**32), fault=[moment, step, number]).wait()
        assert code in {0, -signal.SIGKILL}, f"a life that should die {moment} {step} came to {code}"
        return code != 0

    def kill_at(self, moment: str, step: str) -> None:
        """Let a life end at a point, and the next one go on."""
        if step in AFTER_A_DEATH:
            assert self.perform("after", "call", self.chance.choice([6, 9]))
        number = 1 if step in ONCE | AFTER_A_DEATH else self.chance.choice([1, 2, 4])
        died = self.perform(moment, step, number) or self.perform(moment, step, 1)
        assert died, f"nobody came to the point {moment} {step}"
        self.look(f"killed {moment} {step}", at_rest=False)

        code = self.make("clear up", keys=[*self.children.told.keys]).wait()

        assert code == 0, f"killed {moment} {step}, and the next process came to {code}"
        self.look(f"killed {moment} {step}, and gone on")

    def look(self, what: str, *, at_rest: bool = True) -> None:
        try:
            assert_whole(self.url, self.children.told, at_rest=at_rest)
            assert_chained(self.url, self.graphs)
        except AssertionError as wrong:
            wrong.add_note(what)
            raise


def some_chance() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def kill_at_all(
    points: Sequence[tuple[str, str]], url: str, children: Children, folder: Path, chance: random.Random
) -> None:
    """Let lives end at these points, all on one server, or on one file after another."""
    theatre = Theatre(url, folder, children, chance)
    for number, (moment, step) in enumerate(points):
        if number % KILLS_OF_ONE_DATABASE == 0 and url.startswith("sqlite"):
            children.begin_anew()
            theatre = Theatre(f"sqlite:///{folder / f'runs-{number}.db'}", folder, children, chance)
        theatre.kill_at(moment, step)


def test_the_next_process_ends_what_was_left_at_any_step(url: str, children: Children, tmp_path: Path) -> None:
    chance = some_chance()
    kill_at_all(chance.sample(POINTS, SAMPLE[url.partition(":")[0]]), url, children, tmp_path, chance)


@pytest.mark.long
def test_at_every_step(url: str, children: Children, tmp_path: Path) -> None:
    kill_at_all(POINTS, url, children, tmp_path, some_chance())
