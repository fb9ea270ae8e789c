"""`trackside explain`: what is behind an error, and what to do about it, by the code that its message ends with.

The texts are Markdown, in `explanations/`: a heading for each code, an error's own (`TracksideError.code`), that of an
answer's status, or what a run failed of (`FailureReason`). The documentation has them as pages, one each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Final

from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.output import OutputConsole, standard_output
from trackside.harness.errors import TracksideError

_HEADING: Final = re.compile(r"^## (\S+)\n", re.MULTILINE)
_SENTENCE: Final = re.compile(r"(?<=[.:;]) ")


class UnknownCodeError(TracksideError, LookupError):
    """No error of Trackside has the code {typed!r}{meant}; `trackside explain` lists them."""


@cache
def explanations() -> Mapping[str, str]:
    """What is behind each code, as Markdown; sorted."""
    found: dict[str, str] = {}
    for file in (resources.files("trackside.app.cli") / "explanations").iterdir():
        _, *parts = _HEADING.split(file.read_text(encoding="utf-8"))
        found |= {code: text.strip() for code, text in zip(parts[::2], parts[1::2], strict=True)}
    return dict(sorted(found.items()))


def explain(code: str | None) -> ExitCode:
    """Print what is behind a code; without one, what there is.

    Raises:
        UnknownCodeError: there is no such code.
        OutputError: it cannot be printed.
    """
    out = standard_output()
    if code is None:
        _print_all(out)
    else:
        _print_one(out, code)
    return ended(out)


def _print_all(out: OutputConsole) -> None:
    known = explanations()
    width = max(map(len, known))
    for name, about in known.items():
        out.print(name.ljust(width), style="bold", end="  ")
        out.print(_SENTENCE.split(" ".join(about.split()), maxsplit=1)[0])


def _print_one(out: OutputConsole, code: str) -> None:
    known = explanations()
    # As people copy it: with the brackets of the message, or the colon before it, in any case.
    wanted = code.strip().strip("[]:").casefold()
    if (text := known.get(wanted)) is None:
        close = get_close_matches(wanted, known, n=1)
        raise UnknownCodeError(typed=wanted, meant=f" (is {close[0]!r} meant?)" if close else "")
    out.print(wanted, style="bold")
    if out.is_screen:
        from rich.markdown import Markdown

        out.print(Markdown(text))
    else:
        out.print(text)
