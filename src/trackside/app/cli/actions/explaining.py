"""`trackside explain`: explains an error, and what to do about it, by the code that ends its message.

The texts are Markdown files in `explanations/`, with a heading for each code. A code belongs to an error
(`TracksideError.code`) or to the status of an answer, or is the reason why a run failed (`FailureReason`). The
documentation has a page for each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Final

from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.views.output import OutputConsole, standard_output
from trackside.harness.errors import TracksideError
from trackside.harness.types import JsonObject

_HEADING: Final = re.compile(r"^## (\S+)\n", re.MULTILINE)
_SENTENCE: Final = re.compile(r"(?<=[.:;]) ")
_WHAT_TO_DO: Final = "**What to do:** "


class UnknownCodeError(TracksideError, LookupError):
    """No error of Trackside has the code {typed!r}{meant}; `trackside explain` lists them."""


@cache
def explanations() -> Mapping[str, str]:
    """The explanation of each code, as Markdown, sorted by code."""
    found: dict[str, str] = {}
    for file in (resources.files("trackside.app.cli") / "explanations").iterdir():
        _, *parts = _HEADING.split(file.read_text(encoding="utf-8"))
        found |= {code: text.strip() for code, text in zip(parts[::2], parts[1::2], strict=True)}
    return dict(sorted(found.items()))


def explain(code: str | None, *, json: bool) -> ExitCode:
    """Print the explanation of a code; without one, list all codes.

    Raises:
        UnknownCodeError: there is no such code.
        OutputError: the text cannot be printed.
    """
    out = standard_output()
    wanted = None if code is None else _known(code)
    if json:
        out.print_json_lines(map(_object_of, explanations() if wanted is None else [wanted]))
    elif wanted is None:
        _print_all(out)
    else:
        _print_one(out, wanted)
    return ended(out)


def _object_of(code: str) -> JsonObject:
    explanation, _, what_to_do = explanations()[code].partition(_WHAT_TO_DO)
    return {"code": code, "explanation": explanation.strip(), "what_to_do": what_to_do}


def _print_all(out: OutputConsole) -> None:
    known = explanations()
    width = max(map(len, known))
    for name, about in known.items():
        out.print(name.ljust(width), style="bold", end="  ")
        out.print(_SENTENCE.split(" ".join(about.split()), maxsplit=1)[0])


def _known(code: str) -> str:
    known = explanations()
    # People copy it with the brackets of the message or the colon before it, in upper or lower case.
    wanted = code.strip().strip("[]:").casefold()
    if wanted not in known:
        close = get_close_matches(wanted, known, n=1)
        raise UnknownCodeError(typed=wanted, meant=f" (did you mean {close[0]!r}?)" if close else "")
    return wanted


def _print_one(out: OutputConsole, code: str) -> None:
    text = explanations()[code]
    out.print(code, style="bold")
    if out.is_screen:
        from rich.markdown import Markdown

        out.print(Markdown(text))
    else:
        out.print(text)
