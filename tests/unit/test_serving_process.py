"""What a process that serves many clients is given."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trackside.app.cli.serving import beginning_anew
from trackside.app.cli.serving.process import new_event_loop

_COUNTED = """
import ctypes, sys, threading
from trackside.app.cli.serving.process import prepared

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fdopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
everyone = threading.Barrier(9)

def work():
    everyone.wait()
    libc.malloc(2_000)
    everyone.wait()

with prepared():
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    everyone.wait()
    everyone.wait()
    for thread in threads:
        thread.join()
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fclose(out)
"""
"""Makes eight threads allocate at once, and then lists the heaps."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="only glibc says what heaps it has")
@pytest.mark.parametrize(("chosen", "heaps"), [(None, 2), ("4", 4)], ids=["ours", "as the user has it"])
def test_threads_share_few_heaps_unless_somebody_has_said_how_many(chosen: str | None, heaps: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    if chosen is not None:
        environment["MALLOC_ARENA_MAX"] = chosen

    said = subprocess.run([sys.executable, "-c", _COUNTED], env=environment, capture_output=True, check=True)

    assert said.stdout.count(b"<heap nr=") == heaps


_SEARCHED = """
import gc
from trackside.app.cli.serving.process import prepared

with prepared() as loaded:
    {loading}
    loaded()
    print(gc.isenabled(), gc.get_freeze_count() > 0, gc.get_threshold()[0])
print(gc.isenabled(), gc.get_freeze_count() > 0, gc.get_threshold()[0])
"""


@pytest.mark.parametrize(
    ("loading", "young"), [("pass", 50_000), ("gc.set_threshold(123)", 123)], ids=["ours", "as an agent has it"]
)
def test_garbage_is_searched_for_seldom_while_it_serves_and_as_before_then(loading: str, young: int) -> None:
    usual = gc.get_threshold()[0]
    code = _SEARCHED.format(loading=loading)

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.splitlines() == [f"True True {young}", f"True False {usual}"]


def test_more_functions_wait_at_once_in_the_executor_of_its_loop_than_asyncio_has_threads() -> None:
    everyone = threading.Barrier(40)  # asyncio has 32 at most, six on two cores

    async def wait() -> None:
        await asyncio.gather(*(asyncio.to_thread(everyone.wait, 30) for _ in range(everyone.parties)))

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(wait())


def test_a_process_whose_folder_is_gone_does_not_begin_anew_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "app").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["trackside", "serve"])
    monkeypatch.setattr(beginning_anew, "_started_in", None)
    beginning_anew.remember_start()
    monkeypatch.chdir(tmp_path)
    folder.rmdir()

    why = asyncio.run(beginning_anew.why_not())

    assert why == f"it cannot be started in {folder} again: No such file or directory"
