"""SIGKILL of each process that tries a run: each attempt is a run of its own, and after the last one nobody tries again."""

from typing import Any

from crash_children import Children
from log_check import assert_whole, look_into

ATTEMPTS = 3
QUICK = 2


def told_of(url: str) -> list[tuple[Any, ...]]:
    """Agent, attempt, status and kind of error of all runs, in the order in which they started."""
    with look_into(url) as database:
        query = "SELECT agent, attempt, status, error_type FROM runs ORDER BY started_at"
        return [tuple(row) for row in database.execute(query).fetchall()]


def test_each_process_that_is_killed_costs_one_attempt(url: str, children: Children) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        child = children.make("attempts", url, starts=QUICK if attempt == 1 else 0, max_attempts=ATTEMPTS)
        assert child.wait_for("ready")
        assert child.wait_for("attempt")
        assert child.last["attempt"] == str(attempt)
        assert child.kill()
    assert children.make("attempts", url, until=child.last["begun"]).wait() == 0

    assert_whole(url, children.told)
    lost = [("endless", attempt, "error", "worker_lost") for attempt in range(1, ATTEMPTS + 1)]
    # The second attempt came before the waiting runs, which used the time until the third.
    assert told_of(url) == [*lost[:2], *[("quick", 1, "success", None)] * QUICK, lost[2]]
    with look_into(url) as database:
        query = "SELECT run_id, retry_of FROM runs WHERE agent = 'endless' ORDER BY attempt"
        chain = [tuple(row) for row in database.execute(query).fetchall()]
    assert [retry_of for _, retry_of in chain] == [None, *[run_id for run_id, _ in chain[:-1]]]
