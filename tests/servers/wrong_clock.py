"""Processes whose wall clock is wrong, by a library of a few lines that they load first; needs a C compiler, and Linux.

Timers, which go by the monotonic clock, are as they are.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    const char *off_by = getenv("CLOCK_OFF_BY");
    if (!failed && off_by && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += atol(off_by);
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (kept) *kept = exact.tv_sec;
    return exact.tv_sec;
}
"""


def why_not() -> str | None:
    """Why clocks cannot be wrong here; None if they can."""
    if sys.platform != "linux":
        return "libraries are loaded first in this way on Linux"
    return None if shutil.which("cc") else "there is no C compiler"


def off_by(seconds: int, folder: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is wrong by so much; the library is made in this folder."""
    library = folder / "wrong_clock.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-o", str(library), "-x", "c", "-"]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFF_BY": str(seconds)}
