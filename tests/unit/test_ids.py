"""Ids sort by age, never repeat, and are UUIDs of version 7."""

import os
import subprocess
import sys
import threading
import time
import uuid

import pytest

from trackside.harness.ids import _Uuid7Source, is_uuid, new_id, new_ids


def test_id_is_a_uuid_of_version_7_in_its_usual_form() -> None:
    for text in (new_id() for _ in range(1_000)):
        made = uuid.UUID(text)
        assert str(made) == text
        assert made.version == 7
        assert made.variant == uuid.RFC_4122


def test_id_begins_with_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id()).int >> 80
    after = time.time_ns() // 1_000_000

    # Ids run ahead of the clock only if more than 4096 were made in a millisecond.
    assert before <= made <= after + 1_000


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    made = [new_id() for _ in range(20_000)]

    assert made == sorted(set(made))


def test_several_ids_at_once_sort_among_all_others() -> None:
    before = new_id()
    several = new_ids(10_000)
    after = new_id()

    assert [before, *several, after] == sorted({before, *several, after})
    assert len(several) == 10_000
    assert new_ids(0) == []


@pytest.mark.parametrize("jump", [0, -1, -86_400_000], ids=["stands still", "goes back", "goes back a day"])
def test_ids_grow_while_the_clock_does_not(jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    times = [now, *[now + jump * 1_000_000] * 10_000]
    monkeypatch.setattr("trackside.harness.ids.time_ns", lambda: times.pop(0))
    source = _Uuid7Source()
    made = [source.next() for _ in range(10_000)]

    assert made == sorted(set(made))
    assert {uuid.UUID(text).version for text in made} == {7}


@pytest.mark.parametrize("now", [-86_400 * 10**9, -1, 0, 1], ids=["a day before", "just before", "then", "just after"])
def test_ids_are_whole_on_a_machine_whose_clock_is_at_1970_or_before(now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.harness.ids.time_ns", lambda: now)
    source = _Uuid7Source()
    made = [source.next() for _ in range(10_000)]

    assert made == sorted(set(made))
    assert all(is_uuid(text) for text in made)
    assert {uuid.UUID(text).version for text in made} == {7}


def test_random_part_differs_from_id_to_id() -> None:
    tails = {text[20:] for text in (new_id() for _ in range(10_000))}

    assert len(tails) == 10_000


def test_threads_never_make_the_same_id_and_each_sees_its_own_in_order() -> None:
    made: list[list[str]] = []

    def make() -> None:
        made.append([new_id() for _ in range(5_000)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(ids == sorted(ids) for ids in made)
    assert len({text for ids in made for text in ids}) == 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forked_children_never_make_the_same_ids_even_if_a_thread_was_making_one() -> None:
    program = """
import os, threading
from trackside.harness.ids import new_id, _source
new_id()
held = _source._lock
held.acquire()  # as another thread may just then
children = []
for _ in range(4):
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.write(write, " ".join(new_id() for _ in range(200)).encode())
        os._exit(0)
    os.close(write)
    children.append((pid, read))
held.release()
print(*(new_id() for _ in range(200)))
for pid, read in children:
    with os.fdopen(read) as pipe:
        print(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")
    by_process = [line.split() for line in result.stdout.splitlines()]
    assert [len(ids) for ids in by_process] == [200] * 5
    assert len({text for ids in by_process for text in ids}) == 1_000
    # Not only the time distinguishes them: the random parts differ, too.
    assert len({text[20:] for ids in by_process for text in ids}) == 1_000


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("01a212e6-43f4-7001-8e24-fb9b1c3a0e3d", True),
        ("01A212E6-43F4-7001-8E24-FB9B1C3A0E3D", True),
        ("01a212e643f470018e24fb9b1c3a0e3d", False),
        ("{01a212e6-43f4-7001-8e24-fb9b1c3a0e3d}", False),
        ("01a212e6-43f4-7001-8e24-fb9b1c3a0e3", False),
        ("run-1", False),
        ("", False),
    ],
)
def test_is_uuid_takes_the_usual_form_only(text: str, right: bool) -> None:
    assert is_uuid(text) is right
