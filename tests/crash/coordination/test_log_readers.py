"""Eight processes write and four read at the same time: no gap, nothing missed, nothing seen twice or too early (I2, I3)."""

import pytest
from crash_children import Children
from log_check import assert_whole, end_of_log

WRITERS = 8
READERS = ["follow", "page"] * 2


def write_and_read(url: str, children: Children, seconds: float) -> int:
    """Let them all work for this many seconds; returns how many events there are in the end."""
    children.make("append", url, producers=0).finish()  # makes the tables before everybody comes
    readers = [children.make(kind, url) for kind in READERS]
    writers = [children.make("append", url, producers=4) for _ in range(WRITERS)]
    for child in (*readers, *writers):
        assert child.wait_for("ready")
    writers[0].wait_for("dead", patience=seconds)  # none of them ends by itself
    for writer in writers:
        assert writer.wait_for("event", 20)
    for writer in writers:
        writer.finish()
    for reader in readers:
        reader.finish()
    assert_whole(url, children.told)
    assert [reader.last["seen"] for reader in readers] == [str(end_of_log(url))] * len(readers)
    assert len(children.told.positions) == end_of_log(url)  # everything was acknowledged, and there is nothing else
    return end_of_log(url)


def test_eight_write_and_four_read(url: str, children: Children) -> None:
    assert write_and_read(url, children, seconds=1.5) > 100


@pytest.mark.long
def test_eight_write_and_four_read_for_half_a_minute(url: str, children: Children) -> None:
    print(f"{write_and_read(url, children, seconds=30)} events")
