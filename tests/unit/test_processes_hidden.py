"""A process of another user that `/proc` hides is not taken for dead."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from trackside.app.storage import _processes

INIT = 1  # a process of root's


def says_that_it_is_gone(empty: Path, pid: int) -> bool:
    """What a user who is nobody finds out where `/proc` has nothing."""
    if os.geteuid() == 0:
        os.setuid(65_534)
    _processes._PROC = empty  # a process of its own: nobody else sees that
    return _processes.is_gone(f"{_processes._place()}/{pid}/12345")


@pytest.mark.skipif(os.name == "nt", reason="there are no processes of other users to see")
def test_a_process_that_is_hidden_is_left_to_its_lease_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    ended = multiprocessing.get_context("spawn").Process()
    ended.start()
    assert ended.pid is not None
    ended.join()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert not pool.apply(says_that_it_is_gone, (tmp_path, INIT))
        assert pool.apply(says_that_it_is_gone, (tmp_path, ended.pid))
