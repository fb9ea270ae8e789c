"""The documents, and the code blocks in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
DOCUMENTS: Final = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("benchmarks/*.md"), *DOCS.rglob("*.md")]
)

_FENCED: Final = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<remark>unchecked|file): (?P<what>[^\n]+?) -->\n+(?P=indent))?"
    r"```(?P<language>\w*)(?P<more>[^\n`]*)\n(?P<text>.*?)^(?P=indent)``` *$",
    re.MULTILINE | re.DOTALL,
)
_FILE_NAME: Final = re.compile(r"(?:#|//|--) (\w[\w./-]*\.\w+)\n")  # below the folder: no absolute path is written to


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str
    unchecked: str | None = None
    """Why the block cannot be checked, if the document says so."""
    file: str | None = None
    """The file that the block is the content of, if the document or the block's first line says so."""
    follows: bool = False
    """Whether nothing stands between it and the block before it."""

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks_of(document: Path) -> Iterator[Block]:
    """All blocks of a document, including those in lists.

    Raises:
        ValueError: a fence has more than the name of a language.
    """
    text = document.read_text(encoding="utf-8")
    end = -1
    for found in _FENCED.finditer(text):
        inside = textwrap.dedent(found["text"])
        remarks = {found["remark"]: found["what"]}
        if "file" not in remarks and (named := _FILE_NAME.match(inside)) is not None:
            remarks["file"] = named[1]
        block = Block(
            document,
            text[: found.start("language")].count("\n") + 1,
            found["language"],
            inside,
            remarks.get("unchecked"),
            remarks.get("file"),
            end >= 0 and not text[end : found.start()].strip(),
        )
        if found["more"].strip():
            raise ValueError(f"{block} begins with more than the name of a language: {found['more']}")
        end = found.end()
        yield block


def commands_in(block: Block) -> list[str]:
    """What a reader types from a `console` or `sh` block, without the output; a command may have several lines."""
    if block.language != "sh":
        return [typed for typed, _ in console(block.text)]
    found: list[str] = []
    begun = ""
    for line in re.split(r"(?<!\\)\n", block.text):
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quoted text goes on in the next line
            begun += "\n"
            continue
        if words:
            found.append(begun)
        begun = ""
    return found


def console(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a `console` block with the output shown below it."""
    for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        typed, _, shown = command.partition("\n")
        while typed.endswith("\\"):
            more, _, shown = shown.partition("\n")
            typed = f"{typed[:-1]}{more.removeprefix('> ').lstrip()}"
        yield typed, shown
