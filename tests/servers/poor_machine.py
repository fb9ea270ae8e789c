"""Processes on a machine whose wall clock is wrong or whose disk is slow, by a library of a few lines, loaded first.

    machine = Machine(folder)
    start(env=machine.env)
    machine.clock_off_by(86_400)  # it jumps, for all processes that go on
    machine.sync_takes(0.2)       # seconds for which each of their fsyncs takes longer

Timers, which use the monotonic clock, stay as they are. It needs a C compiler, and Linux.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct machine { long clock_off_by, sync_takes; };  /* seconds, microseconds */
static const volatile struct machine *machine;
static long always_off_by;

__attribute__((constructor)) static void look(void) {
    const char *off_by = getenv("CLOCK_OFF_BY"), *path = getenv("MACHINE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (off_by) always_off_by = atol(off_by);
    if (file < 0) return;
    void *seen = mmap(NULL, sizeof *machine, PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED) machine = seen;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += always_off_by + (machine ? machine->clock_off_by : 0);
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

static void be_slow(void) { if (machine && machine->sync_takes) usleep(machine->sync_takes); }
int fsync(int file) { be_slow(); return syscall(SYS_fsync, file); }
int fdatasync(int file) { be_slow(); return syscall(SYS_fdatasync, file); }
"""


def why_not() -> str | None:
    """Why there can be no such poor machines here; None if there can."""
    if sys.platform != "linux":
        return "libraries are loaded first in this way on Linux"
    return None if shutil.which("cc") else "there is no C compiler"


def off_by(seconds: int, folder: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is always off by so many seconds; this folder gets the library."""
    return {"LD_PRELOAD": str(_library(folder)), "CLOCK_OFF_BY": str(seconds)}


class Machine:
    """The state of a machine. A file in a folder holds it, and the machine's processes see a change at once."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "machine"
        self._clock_off_by = self._sync_takes = 0
        self._say()
        self.env = {"LD_PRELOAD": str(_library(folder)), "MACHINE": str(self._file)}
        """The environment of the processes on it."""

    def clock_off_by(self, seconds: int) -> None:
        """Set its wall clock."""
        self._clock_off_by = seconds
        self._say()

    def sync_takes(self, seconds: float) -> None:
        """Make its disk take this much longer to make something durable."""
        self._sync_takes = round(seconds * 1e6)
        self._say()

    def _say(self) -> None:
        with self._file.open("r+b" if self._file.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack("@ll", self._clock_off_by, self._sync_takes))  # in place, as it is mapped


def _library(folder: Path) -> Path:
    library = folder / "poor_machine.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), "-x", "c", "-"]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
    return library
