"""`Places` gives places as a plain model does that looks at every waiting run."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trackside.harness.managing.places import Places

TOTAL = 3
LIMITS = {"one": 1, "two": 2, "many": 9}
AGENTS = st.sampled_from([*LIMITS, "free", "free too"])


class PlacesMachine(RuleBasedStateMachine):
    """Beside `Places`, two lists: who has a place, and who waits, in the order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Places[tuple[int, str]] = Places(TOTAL, LIMITS)
        self.having: list[tuple[int, str]] = []
        self.waiting: list[tuple[int, str]] = []
        self.came = 0

    def fits(self, run: tuple[int, str]) -> bool:
        of_agent = sum(other[1] == run[1] for other in self.having)
        return len(self.having) < TOTAL and of_agent < LIMITS.get(run[1], TOTAL)

    @rule(agent=AGENTS)
    def come(self, agent: str) -> None:
        run = (self.came, agent)
        self.came += 1
        fits = self.fits(run)
        assert self.places.take(run, agent) is fits
        (self.having if fits else self.waiting).append(run)

    @precondition(lambda self: self.having)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.having))
        self.having.remove(run)
        follows = next(filter(self.fits, self.waiting), None)
        assert self.places.give_back(run[1]) == follows
        if follows is not None:
            self.waiting.remove(follows)
            self.having.append(follows)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(run)
        self.places.leave(run, run[1])

    @rule(agent=AGENTS)
    def leave_without_waiting(self, agent: str) -> None:
        self.places.leave((-1, agent), agent)

    @invariant()
    def nobody_waits_for_a_place_that_is_free(self) -> None:
        assert self.places.waiting == len(self.waiting)
        assert not any(map(self.fits, self.waiting))


TestPlaces = PlacesMachine.TestCase
