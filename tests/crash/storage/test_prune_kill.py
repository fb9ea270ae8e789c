"""SIGKILL in the middle of a prune: what is left is whole, and the next prune goes on to the end."""

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from trackside.app.storage.maintenance import check_database

KILLS = 5
OLD_RUNS = 200
STEP = 8  # events in a transaction: two runs


def start(url: str, *, old_runs: int, batch: int) -> subprocess.Popen[str]:
    command = [sys.executable, Path(__file__).with_name("pruner.py"), url, str(old_runs), str(batch)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_killed_while_it_prunes(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    url = f"sqlite:///{tmp_path / 'runs.db'}"

    interrupted = 0
    longest = 0.2  # seconds
    for _ in range(KILLS):
        process = start(url, old_runs=OLD_RUNS, batch=STEP)
        with suppress(subprocess.TimeoutExpired):  # it takes longer: this is how long it may go on
            process.wait(moments.uniform(0, longest))
        os.kill(process.pid, signal.SIGKILL)
        if process.communicate()[0] == "":
            interrupted += 1
        else:
            longest /= 4  # it is faster here than that
        assert check_database(url, sample=None) == []

    assert interrupted > 0
    assert start(url, old_runs=0, batch=1_000).communicate()[0] == "done\n"
    assert check_database(url, sample=None) == []
