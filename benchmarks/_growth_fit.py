"""How fast a cost grows with the data: the exponent of the power law that fits the costs measured at several sizes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import linear_regression, median

TOLERANCE = 0.1
"""How far a line's exponent may be above what it must be: caches, deeper trees and noise are put up with."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Cost = constant × size ** `exponent`, by least squares of the logarithms.

    `error` is the standard error of the exponent; None with only two points, through which a line goes exactly.
    """

    exponent: float
    error: float | None

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> "Fit":
        """The fit of points (size, cost), all of them above 0; a size may occur several times.

        Raises:
            statistics.StatisticsError: the points are all of one size, or there are fewer than two.
        """
        logarithms = [(log(size), log(cost)) for size, cost in points]
        sizes, costs = [x for x, _ in logarithms], [y for _, y in logarithms]
        slope, intercept = linear_regression(sizes, costs)
        spare = len(logarithms) - 2
        if not spare:
            return cls(slope, None)
        center = sum(sizes) / len(sizes)
        left = sum((y - intercept - slope * x) ** 2 for x, y in logarithms)
        return cls(slope, sqrt(left / spare / sum((x - center) ** 2 for x in sizes)))

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" if self.error is None else f"{self.exponent:.2f} ± {self.error:.2f}"


@dataclass(frozen=True, slots=True)
class Growth:
    """What was measured of one line by one clock: each round's nanoseconds by size, and how fast they must grow."""

    must: float
    rounds: Sequence[tuple[int, Sequence[float]]]

    @property
    def medians(self) -> list[tuple[int, float]]:
        """The median of each size."""
        return [(size, median(costs)) for size, costs in self.rounds]

    @property
    def fit(self) -> Fit:
        """The fit of every round at every size, except those that seem to cost nothing: a server process had ended."""
        return Fit.of((size, cost) for size, costs in self.rounds for cost in costs if cost > 0)

    @property
    def upper(self) -> Fit:
        """The fit of the three largest sizes alone: among many, the small ones would hide a line that bends upwards."""
        return Growth(self.must, self.rounds[-3:]).fit

    @property
    def last_step(self) -> float:
        """The exponent from the second-largest size to the largest, where a cost that bends upwards shows first."""
        return Fit.of(self.medians[-2:]).exponent

    @property
    def excess(self) -> float:
        """How far the exponent is above what it must be, through all sizes or through the largest ones."""
        return max(self.fit.exponent, self.upper.exponent) - self.must

    @property
    def met(self) -> bool:
        return self.excess <= TOLERANCE
