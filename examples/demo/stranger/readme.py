"""What README.md tells a stranger to do: the blocks of one of its sections, in order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.stranger.failing import StrangerError

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class File:
    """A file to write."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A line to type."""

    text: str


class Section:
    """The files and commands of a section, taken one after the other, up to the next heading.

    Args:
        document: the page.
        title: the section's title.
        instead: what to write in place of some texts, such as ports that are free here.

    Raises:
        StrangerError: the page has no such section.
    """

    def __init__(self, document: Path, title: str, instead: Mapping[str, str]) -> None:
        found = re.search(rf"^## {re.escape(title)}$(.*?)^##", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        if found is None:
            raise StrangerError(f"{document.name} has no section “{title}”")
        self._name = f"{document.name}, “{title}”,"
        self._instead = instead
        self._left: list[File | Command] = []
        for language, text in _BLOCK.findall(found[1]):
            self._left += self._steps(language, text)

    def file(self, name: str) -> File:
        """The next step, which must be to write this file.

        Raises:
            StrangerError: the next step is something else.
        """
        step = self._left.pop(0) if self._left else None
        if not isinstance(step, File) or step.name != name:
            raise StrangerError(f"{self._name} does not show {name} where it is needed, but {_told(step)}")
        return step

    def command(self, start: str) -> Command:
        """The next step, which must be to type a line that begins like this.

        Raises:
            StrangerError: the next step is something else.
        """
        step = self._left.pop(0) if self._left else None
        if not isinstance(step, Command) or not step.text.startswith(start):
            raise StrangerError(f"{self._name} does not say “{start} …” where it is needed, but {_told(step)}")
        return step

    def end(self) -> None:
        """Check that no step is left.

        Raises:
            StrangerError: there are more steps.
        """
        if self._left:
            raise StrangerError(f"{self._name} goes on with what this demo does not do: {_told(self._left[0])}")

    def _steps(self, language: str, text: str) -> list[File | Command]:
        for old, new in self._instead.items():
            text = re.sub(rf"\b{re.escape(old)}\b", new, text)
        if language == "console":
            return [Command(line.removeprefix("$ ")) for line in text.splitlines() if line.startswith("$ ")]
        name = re.match(r"# (\w+\.\w+)\n", text)
        return [File(name[1], text)] if name else []


def _told(step: File | Command | None) -> str:
    match step:
        case None:
            return "ends"
        case File(name):
            return f"shows {name}"
        case Command(text):
            return f"says “{text}”"
