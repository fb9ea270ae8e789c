"""Threads for libraries that block: none keeps a process alive, and jobs of one kind can be made to take turns."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from trackside.app.daemon_threads import DaemonThreads

FOREVER = """
import threading
from trackside.app.daemon_threads import DaemonThreads
begun = threading.Event()
def hang():
    begun.set()
    threading.Event().wait()
DaemonThreads("hanging").submit(hang)
begun.wait()
print("ends")
"""


def test_a_job_that_never_ends_keeps_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", FOREVER], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ends\n"


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_second_job_begins_when_the_first_is_over_if_they_come_one_by_one(one_by_one: bool) -> None:
    threads = DaemonThreads("jobs", one_by_one=one_by_one)
    begun, go_on, order = threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        begun.set()
        assert go_on.wait(60)
        order.append("first")

    jobs = [threads.submit(first)]
    assert begun.wait(60)
    jobs.append(threads.submit(order.append, "second"))
    if not one_by_one:
        jobs[1].result(60)
    go_on.set()
    for job in jobs:
        job.result(60)

    assert order == (["first", "second"] if one_by_one else ["second", "first"])


def test_what_a_job_raises_is_for_who_waits_for_it() -> None:
    with pytest.raises(ZeroDivisionError):
        DaemonThreads("dividing").submit(divmod, 1, 0).result(60)
