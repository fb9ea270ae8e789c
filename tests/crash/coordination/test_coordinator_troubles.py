"""No room, no right to write, a wall clock that jumps, in the middle of coordinated runs: clear errors, and all goes on."""

import signal
from pathlib import Path

import pytest
from crash_children import Child, Children
from log_check import assert_whole, look_into


def go_on(child: Child, events: int = 30) -> None:
    assert child.wait_for("event", child.said["event"] + events)
    assert child.exit_code is None, child.last


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


def notices(child: Child, refused: int, spool: Path | None) -> bool:
    """Whether a caller is refused something, or a run's end is spooled; callers that wait for that do nothing more."""
    return any(
        child.wait_for("refused", refused + 4, patience=0.2)
        or (spool is not None and spool.is_dir() and any(spool.iterdir()))
        for _ in range(300)
    )


def make_trouble(url: str, child: Child, children: Children, spool: Path | None = None) -> None:
    """Let a process meet its trouble in the middle of its work, until the trouble shows."""
    go_on(child)
    refused = child.said["refused"]
    child.signal(signal.SIGUSR1)
    assert notices(child, refused, spool)
    assert child.exit_code is None, child.last
    assert_whole(url, children.told, at_rest=False)  # what was acknowledged is there, and can be read
    child.signal(signal.SIGUSR2)


@pytest.mark.long  # now and then, and more often under coverage, the process stalls for longer than the test waits
@pytest.mark.parametrize(
    ("trouble", "errors"),
    [
        ("full disk", {"DatabaseFullError", "DatabaseIOError"}),
        ("read-only media", {"ReadOnlyDatabaseError"}),
    ],
)
def test_a_process_goes_on_when_it_can_write_again(
    trouble: str, errors: set[str], url: str, children: Children, tmp_path: Path
) -> None:
    options = {"callers": 4, "busy": 0.1, "retry_for": 0.1, "spool": str(tmp_path / "spool")}
    child = children.make("manage", url, trouble=trouble, **options)
    for _ in range(2):
        make_trouble(url, child, children, tmp_path / "spool")
    go_on(child)

    child.finish()

    assert child.refusals.keys() <= errors
    assert_whole(url, children.told)


@pytest.mark.long  # the same
def test_without_a_spool_the_next_process_ends_what_could_not_be_stored(url: str, children: Children) -> None:
    child = children.make("manage", url, trouble="full disk", callers=4, busy=0.1, retry_for=0.1)
    make_trouble(url, child, children)

    child.signal(signal.SIGINT)  # while it lives, the threads of what could not be stored stay held

    assert child.wait() == 0
    assert children.make("manage", url, callers=0).wait() == 0
    assert_whole(url, children.told)


def test_a_wall_clock_that_jumps_by_days_changes_nothing(url: str, children: Children) -> None:
    children.make("manage", url, callers=0).wait()
    # Long enough for any machine, and short beside a day: who begins later sees at once whose leases have run out.
    options = {"callers": 3, "threads": 8, "trouble": "jumpy clocks", "delays": False, "lease": 120.0}
    fleet = [children.make("manage", url, **options) for _ in range(2)]
    for child in fleet:
        go_on(child, 40)
    fleet += [children.make("manage", url, **options) for _ in range(3)]
    for child in fleet:
        go_on(child, 20)

    for child in fleet:
        child.let_finish()
    assert [child.wait() for child in fleet] == [0] * len(fleet)

    assert_whole(url, children.told)
    with look_into(url) as database:
        assert database.execute("SELECT count(*) FROM runs WHERE error_type = 'worker_lost'").fetchall() == [(0,)]
        days = database.execute("SELECT count(DISTINCT substr(created_at, 1, 10)) FROM runs").fetchone()
    assert days == (3,)  # it did jump
