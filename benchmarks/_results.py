"""What benchmarks wrote down, read again: the report is made of nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _report import HERE, Bars, Budget, Lines, Plot
from _rounds import Clock, Spread


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's JSON."""

    written: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.written["benchmark"])

    @property
    def about(self) -> str:
        """The benchmark in a sentence, without its full stop."""
        return str(self.written["about"])

    @property
    def machine(self) -> Mapping[str, Any]:
        """What it was measured on, and at which commit."""
        found: Mapping[str, Any] = self.written["machine"]
        return found

    @property
    def tables(self) -> list[str]:
        """The tables as the benchmark printed them, and what else it said."""
        return ["\n".join(lines) for lines in self.written["tables"]]

    @property
    def budgets(self) -> list[Budget]:
        keys = ("what", "limit", "measured", "at_most")
        return [Budget(**{key: one[key] for key in keys}) for one in self.written["budgets"]]

    @property
    def cases(self) -> list[str]:
        """The cases of its contenders."""
        return list(dict.fromkeys(one["case"] for one in self.written["contenders"]))

    @property
    def plots(self) -> list[Plot]:
        """What to draw: the benchmark's own plots, or else what each contender took by wall clock."""
        kinds: Mapping[str, type[Bars | Lines]] = {"bars": Bars, "lines": Lines}
        own = [
            kinds[plot["kind"]](**{key: value for key, value in plot.items() if key != "kind"})
            for plot in self.written["plots"]
        ]
        return own or [self._wall_clock(case) for case in self.cases]

    def spread(self, name: str, case: str, clock: Clock = "wall") -> Spread | None:
        """Nanoseconds that a contender took; None if it was not measured."""
        for one in self.written["contenders"]:
            if (one["name"], one["case"]) == (name, case):
                return Spread(**one[clock])
        return None

    def _wall_clock(self, case: str) -> Bars:
        found = {one["name"]: Spread(**one["wall"]) for one in self.written["contenders"] if one["case"] == case}
        factor, unit = _readable(max(spread.median for spread in found.values()))
        what = self.written["unit"].removeprefix("nanoseconds").partition(";")[0].strip()
        return Bars(
            title=case or self.about,
            unit=f"{unit} {what}",
            bars={name: (one.low * factor, one.median * factor, one.high * factor) for name, one in found.items()},
        )


def benchmarks() -> dict[str, Path]:
    """Every benchmark. Those that serve are files `serve_NAME.py`, because an `http.py` would hide Python's own."""
    return dict(sorted((path.stem.removeprefix("serve_"), path) for path in HERE.glob("[a-z]*.py")))


def read(folder: Path) -> dict[str, Result]:
    """All results of a folder, by benchmark."""
    found = (Result(json.loads(path.read_text())) for path in sorted(folder.glob("*.json")))
    return {result.name: result for result in found}


def commits(results: Sequence[Result]) -> dict[str, list[str]]:
    """Which benchmarks were measured at which commit."""
    found: dict[str, list[str]] = {}
    for result in results:
        found.setdefault(str(result.machine["commit"]), []).append(result.name)
    return found


def _readable(nanoseconds: float) -> tuple[float, str]:
    """A factor, and the unit that it leads to."""
    for factor, unit in ((1e-9, "s"), (1e-6, "ms"), (1e-3, "µs")):
        if nanoseconds * factor >= 1:
            return factor, unit
    return 1.0, "ns"
