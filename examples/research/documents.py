"""What the agent can read: the README of every installed package, or a folder of Markdown, reStructuredText and text.

A document that cannot be read is an error, never a gap: an answer that silently left something out would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from research.text import Section, read_markdown, read_prose

SUFFIXES = (".md", ".markdown", ".rst", ".txt")
"""Endings of the file names that count as documents."""

_PACKAGE = "package:"


class DocumentError(Exception):
    """A document that should be read cannot be."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text, without its markup.

    `name` is what a citation calls it, `location` is what `open_document` opens it by, `subject` says in a few words
    what it is about.
    """

    name: str
    location: str
    subject: str
    sections: tuple[Section, ...]


def installed_packages() -> Iterator[Document]:
    """The README of every package that this Python can import, by name."""
    found: dict[str, Distribution] = {}
    for package in distributions():
        if (name := package.metadata["Name"]) and readme_of(package):
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), package)  # the first on the path is the one imported
    for name in sorted(found):
        yield _of_package(found[name])


def folder(path: Path) -> Iterator[Document]:
    """Every document in a folder and the folders below it, except hidden ones, by path.

    Raises:
        DocumentError: the folder does not exist, holds nothing to read, or has a document that is not UTF-8 text.
    """
    if not path.is_dir():
        raise DocumentError(f"{path} is not a folder: name one with {', '.join(SUFFIXES)} files in it")
    files = [file for file in sorted(path.rglob("*")) if _is_document(file.relative_to(path)) and file.is_file()]
    if not files:
        raise DocumentError(f"there is nothing to read in {path}: no file ends in {', '.join(SUFFIXES)}")
    for file in files:
        yield _of_file(file, name=file.relative_to(path).as_posix())


def open_document(location: str, name: str) -> Document:
    """The document at the location that an earlier `Document` gave.

    Raises:
        DocumentError: it is not there any more, or is not UTF-8 text.
    """
    if not location.startswith(_PACKAGE):
        return _of_file(Path(location), name=name)
    try:
        return _of_package(distribution(location.removeprefix(_PACKAGE)))
    except PackageNotFoundError as exc:
        raise DocumentError(f"the package {name} is not installed any more") from exc


def _is_document(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _of_file(path: Path, name: str) -> Document:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DocumentError(
            f"{path} is not UTF-8 text (byte {exc.object[exc.start]:#04x} at {exc.start}): convert it or move it away"
        ) from exc
    except OSError as exc:
        raise DocumentError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    if "\0" in text:
        raise DocumentError(f"{path} is not text: it has NUL bytes in it. Convert it or move it away")
    read = read_markdown if path.suffix.lower() in {".md", ".markdown"} else read_prose
    sections = tuple(read(text))
    subject = next((section.heading for section in sections if section.heading), path.stem)
    return Document(name=name, location=str(path.resolve()), subject=subject, sections=sections)


def _of_package(package: Distribution) -> Document:
    metadata = package.metadata
    markdown = "markdown" in (metadata.get("Description-Content-Type") or "")
    return Document(
        name=f"{metadata['Name']} {package.version}",
        location=f"{_PACKAGE}{metadata['Name']}",
        subject=f"{metadata['Name']}: {(metadata.get('Summary') or '').strip()}".removesuffix(": "),
        sections=tuple((read_markdown if markdown else read_prose)(readme_of(package))),
    )


def readme_of(package: Distribution) -> str:
    """A package's long description: the body of its metadata or, in old ones, a field whose lines are indented."""
    body = package.metadata.get_payload()  # type: ignore[attr-defined]  # it is an email.message.Message
    if isinstance(body, str) and body.strip():
        return body
    return re.sub(r"(?m)^(        |       \|)", "", package.metadata.get("Description") or "").strip()
