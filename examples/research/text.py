"""Removes a document's markup: what is left is sections of plain sentences and, apart from them, code.

Sentences are the document's own words in its own order, so that what is quoted can be found there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

MIN_WORDS = 4
"""Shorter pieces ("Installation", "MIT licensed") say nothing worth quoting."""

MAX_CHARS = 400
"""Longer ones are lists, changelogs or data in a row, not sentences."""


@dataclass(frozen=True, slots=True)
class Section:
    """What is under one heading."""

    heading: str
    sentences: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    """The sections read so far, and the one being read."""

    sections: list[Section] = field(default_factory=list)
    heading: str = ""
    sentences: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    history: int | None = None
    """The level of the heading above release notes while they are skipped: they say what changed, not what is."""

    def add(self, paragraph: str) -> None:
        self.sentences += sentences_of(paragraph)

    def begin(self, heading: str, level: int) -> None:
        """Finish a section and begin the next, whose heading is of this level (1 is the title's)."""
        if (self.sentences or self.code) and self.history is None:
            self.sections.append(Section(self.heading, tuple(self.sentences), tuple(self.code)))
        if self.history is not None and level <= self.history:
            self.history = None
        if self.history is None and _RELEASE_NOTES.search(heading):
            self.history = level
        self.heading, self.sentences, self.code = heading, [], []

    def finish(self) -> list[Section]:
        self.begin("", 0)
        return self.sections


_RELEASE_NOTES = re.compile(
    r"^\W*(?:version |release )?v?\d+\.\d+(?:\.\d+)*\b"
    r"|\b(?:change ?log|release (?:notes|history)|what's (?:new|changed))\b|^(?:changes|history)$",
    re.IGNORECASE,
)


def sentences_of(paragraph: str) -> Iterator[str]:
    """The sentences of a paragraph of plain text that are worth quoting."""
    text = " ".join(paragraph.split())
    ends = (
        match.end() for match in _SENTENCE_END.finditer(text) if not _ABBREVIATION.search(text[: match.start() + 1])
    )
    for start, end in pairwise([0, *ends, len(text)]):
        sentence = text[start:end].strip()
        long_enough = len(_WORD.findall(sentence)) >= MIN_WORDS
        if long_enough and len(sentence) <= MAX_CHARS and not _CHANGE.search(sentence):
            yield sentence


_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]*\s+(?=[\"'(\[“‘`]*[A-Z0-9])")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|incl|No|Dr|Mr|Ms|St)\.$")
_CHANGE = re.compile(r"\(?#\d{2,}\)?\W*$|\bby @\w")  # "Fix … (#506)": an entry of a changelog, wherever it stands
_WORD = re.compile(r"[^\W\d_][\w'’-]+")


def read_markdown(text: str) -> list[Section]:
    """The sections of a CommonMark document; tables, images and raw HTML are left out."""
    draft = _Draft()
    enclosing: list[Token] = []
    for token in _MARKDOWN.parse(text):
        if token.nesting > 0:
            enclosing.append(token)
        elif token.nesting < 0:
            enclosing.pop()
        elif token.type in {"fence", "code_block"}:
            draft.code.append(token.content.rstrip())
        elif token.type == "inline" and enclosing[-1].type == "heading_open":
            draft.begin(" ".join(_inline(token.children or ()).split()), level=int(enclosing[-1].tag[1:]))
        elif token.type == "inline" and enclosing[-1].type == "paragraph_open":
            draft.add(_inline(token.children or ()))
    return draft.finish()


_MARKDOWN = MarkdownIt("commonmark").enable("table")


def _inline(tokens: Iterable[Token]) -> str:
    """The text of a line without images (badges, mostly), HTML tags and emphasis; code keeps its backticks."""
    parts = []
    for token in tokens:
        if token.type == "text":
            parts.append(token.content)
        elif token.type == "code_inline":
            parts.append(f"`{token.content}`")
        elif token.type in {"softbreak", "hardbreak"}:
            parts.append(" ")
    return "".join(parts)


def read_prose(text: str) -> list[Section]:
    """The sections of plain text or of the reStructuredText that READMEs are written in.

    Blocks are told apart the way a reader does it: a line of punctuation underlines a heading, indented text belongs to
    what is above it (`::` announces code), and `.. ` begins a directive, whose content is not prose.
    """
    draft = _Draft()
    styles: list[str] = []
    owner = ""
    for block in re.split(r"\n[ \t]*\n", _UNDERLINED.sub(r"\1\n\n", text.expandtabs().replace("\r\n", "\n"))):
        lines = [line.rstrip() for line in block.strip("\n").split("\n") if not _RULE.fullmatch(line.strip())]
        title, style = _heading(block)
        if title:
            styles += [style] if style not in styles else []
            draft.begin(_without_roles(title), level=styles.index(style) + 1)  # styles rank as they first appear
            owner = ""
        elif lines:
            owner = _read_block(lines, owner, draft)
    return draft.finish()


def _read_block(lines: list[str], owner: str, draft: _Draft) -> str:
    """Add a block's text to the draft; returns what the indented blocks after it are: code, a directive, or ""."""
    first = lines[0]
    if first.startswith(" ") and owner:
        if owner == "code":
            draft.code.append(_dedent(lines))
        return owner
    if first == ".." or first.startswith(".. "):
        if not _CODE_DIRECTIVE.match(first):
            return "directive"
        if code := [line for line in lines[1:] if not _OPTION.match(line)]:
            draft.code.append(_dedent(code))
        return "code"
    if first.lstrip().startswith((">>> ", "$ ")):
        draft.code.append(_dedent(lines))
        return ""
    for paragraph in _paragraphs(lines):
        draft.add(_without_roles(paragraph))
    return "code" if lines[-1].endswith("::") else ""


_UNDERLINED = re.compile(r"(?m)^(\S.*\n([=\-`:.'\"~^_*+#])\2{2,} *)\n(?=\S)")
_RULE = re.compile(r"([=\-`:.'\"~^_*+#])\1{2,}(?: +\1{2,})*|\+[-=+]+\+")
_CODE_DIRECTIVE = re.compile(r"\.\. (?:code|code-block|sourcecode|doctest)::")
_OPTION = re.compile(r"\s*:[\w-]+:")
_BULLET = re.compile(r"\s*(?:[*+•-]|\(?(?:\d+|[a-z#])[.)])\s+")
_LITERAL = re.compile(r"``(.+?)``")
_ROLE = re.compile(r":[\w:+-]+:(?=`)")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?")
_REFERENCE = re.compile(r"(?<!`)`([^`]+)`__?(?!\w)")
_NAME_REFERENCE = re.compile(r"\b([A-Za-z0-9]+)__?(?![\w.(\[])")
_ESCAPE = re.compile(r"\\(?:\s|(\W))")
_SUBSTITUTION = re.compile(r"\|[^|\s][^|]*\|_{0,2}")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(?=\S)(.+?)(?<=\S)\1(?![\w*])")


def _heading(block: str) -> tuple[str, str]:
    """The heading that a block is, and the punctuation around it; two empty texts if it is not a heading."""
    match [line.strip() for line in block.strip("\n").split("\n")]:
        case [over, title, under] if title and over == under and _RULE.fullmatch(over):
            return title, over[0] * 2
        case [title, under] if title and " " not in under and _RULE.fullmatch(under) and not _RULE.fullmatch(title):
            return title, under[0]
        case _:
            return "", ""


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """The paragraphs and list items in one block, which has no blank lines between them."""
    current: list[str] = []
    for line in lines:
        bullet = _BULLET.match(line)
        if _OPTION.match(line) or line.lstrip().startswith("|"):  # a field list, a table
            continue
        if bullet and current:
            yield " ".join(current)
            current = []
        current.append(line[bullet.end() if bullet else 0 :].strip())
    if current:
        yield re.sub(r"::$", ":", " ".join(current))


def _without_roles(text: str) -> str:
    literals: list[str] = []

    def keep(match: re.Match[str]) -> str:
        literals.append(f"`{match[1]}`")
        return f"\0{len(literals) - 1}\0"

    text = _LINK.sub(r"\1", _ROLE.sub("", _LITERAL.sub(keep, text)))
    text = _SUBSTITUTION.sub("", _REFERENCE.sub(r"\1", text))
    text = _ESCAPE.sub(r"\1", _NAME_REFERENCE.sub(r"\1", _EMPHASIS.sub(r"\2", text)))
    return re.sub(r"\0(\d+)\0", lambda match: literals[int(match[1])], text).strip()


def _dedent(lines: list[str]) -> str:
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines).strip("\n")
