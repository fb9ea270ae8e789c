"""What the demos' commands have in common: how options are read, and how a command ends."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from local_model import LocalModelError
from research.documents import DocumentError

from trackside import TracksideError


class UsageError(Exception):
    """The command line makes no sense."""


class DemoError(Exception):
    """Something that the demo needs is gone."""


class Parser(argparse.ArgumentParser):
    """Reads options; raises `UsageError` where they make no sense."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help lists the options)")


def exit_code_of(run: Callable[[], int]) -> int:
    """Run a command; gives its exit code. What goes wrong is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks is no reason to fail
            stream.reconfigure(errors="replace")
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "100")
    try:
        return run()
    except (UsageError, DocumentError, TracksideError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 2
    except (LocalModelError, DemoError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
