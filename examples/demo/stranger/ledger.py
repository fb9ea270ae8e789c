"""What is left of all that was asked for: read from the database, by its own SQL, without any code of the product."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_ENDS = ("run_completed", "run_failed", "run_cancelled")


@dataclass(frozen=True, slots=True)
class Ledger:
    """All runs of a database, as they stand at one moment."""

    statuses: dict[str, str]
    """The status of each run, by run."""
    goes_on_as: dict[str, str]
    """The attempt that came after a run, by that run."""
    ends: Counter[str]
    """How many terminal events a run has, by run."""
    busy: int
    """How many threads are not free."""
    queued: int
    """How many runs are running or waiting."""

    @classmethod
    def read(cls, database: Path) -> Ledger:
        """Read the database in one transaction."""
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as rows:
            rows.execute("BEGIN")
            runs = rows.execute("SELECT run_id, status, retry_of FROM runs").fetchall()
            marks = ", ".join("?" for _ in _ENDS)
            ends = rows.execute(f"SELECT run_id FROM events WHERE event_type IN ({marks})", _ENDS).fetchall()
            (busy,) = rows.execute("SELECT count(*) FROM threads WHERE status = 'busy'").fetchone()
            (queued,) = rows.execute("SELECT count(*) FROM active_runs").fetchone()
        return cls(
            statuses={run: status for run, status, _ in runs},
            goes_on_as={before: run for run, _, before in runs if before is not None},
            ends=Counter(run for (run,) in ends),
            busy=busy,
            queued=queued,
        )

    def final_status(self, run: str) -> str:
        """How a run, or the last of the attempts after it, ended; `unknown` if the database has no such run."""
        while run in self.goes_on_as:
            run = self.goes_on_as[run]
        return self.statuses.get(run, "unknown")

    def standing(self, runs: Collection[str]) -> Counter[str]:
        """How many of these runs have each status."""
        return Counter(self.statuses.get(run, "unknown") for run in runs)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the balance: a number, what it should be if it matters, and what it is about."""

    what: str
    number: int
    wanted: int | None = None
    remark: str = ""

    @property
    def is_right(self) -> bool:
        """Whether the number is what it should be."""
        return self.wanted is None or self.number == self.wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What became of the runs that were acknowledged."""

    acknowledged: Sequence[str]
    now: Ledger
    listed: Collection[str]
    """The runs that the server lists."""
    received: Counter[str]
    """How many webhooks came about each run, by run."""
    served_again: int
    """How many threads took another run that ended well."""
    threads: Sequence[str]

    def lines(self) -> list[Line]:
        """The lines that are shown."""
        asked, now = self.acknowledged, self.now
        cut_off = sum(1 for run in asked if now.statuses.get(run) == "error")
        told = sum(1 for run in now.ends if self.received[run])
        return [
            Line("acknowledged", len(asked), remark="runs that a client was told of before the kill"),
            Line("known afterwards", sum(1 for run in asked if run in self.listed), len(asked)),
            Line(
                "begun anew",
                sum(1 for run in asked if run in now.goes_on_as),
                cut_off,
                "those that the kill has cut off",
            ),
            Line("answered", sum(1 for run in asked if now.final_status(run) == "success"), len(asked)),
            Line("runs in all", len(now.statuses), remark="with those begun anew, and those outside of the crowd"),
            Line("ended exactly once", sum(1 for run in now.statuses if now.ends[run] == 1), len(now.statuses)),
            Line("told by webhook", told, len(now.ends), self._doubles()),
            Line("threads stuck", now.busy + now.queued, 0),
            Line("threads served again", self.served_again, len(self.threads)),
        ]

    def _doubles(self) -> str:
        more = self.received.total() - self.now.ends.total()
        return f"{more} of them more than once, as the kill came before their receipt was kept" if more > 0 else ""


def received(log: str) -> Counter[str]:
    """How many webhooks came about the end of each run, by what README.md's receiver printed."""
    return Counter(re.findall(r"^run_(?:completed|failed) (\S+)$", log, re.MULTILINE))
