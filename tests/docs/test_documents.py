"""The code in the documents runs as it is printed, in an empty folder; links and commands lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md")]
)


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(document, text[: m.start()].count("\n") + 1, m[1], m[2]) for m in fences]


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    (block, line.removeprefix("$ ").split("#")[0].strip())
    for block in BLOCKS
    if block.language in {"console", "sh"}
    for line in block.text.splitlines()
    if line.startswith("$ ") or block.language == "sh"
]


def run(block: Block, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.text], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{block} fails:\n{result.stderr}"
    return result.stdout


def test_the_readme_has_code_to_run() -> None:
    assert len([block for block in PYTHON if block.document.name == "README.md"]) >= 2


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_in_a_document_runs_as_printed(block: Block, tmp_path: Path) -> None:
    assert run(block, tmp_path)


def test_the_first_lines_of_the_readme_show_what_they_say_they_show(tmp_path: Path) -> None:
    code, shown = blocks(ROOT / "README.md")[:2]
    printed = run(code, tmp_path).splitlines()
    for line, expected in zip(printed, shown.text.splitlines(), strict=True):
        pattern = re.sub(r"…", ".*", re.sub(r"([\[\](){}.?*+|^$\\])", r"\\\1", expected))
        assert re.fullmatch(pattern, line), f"{line!r} is not {expected!r}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_scripts_that_documents_name_exist() -> None:
    named = {command.split()[0] for _, command in COMMANDS if command.startswith("./scripts/")}
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_trackside_commands_that_documents_name_exist() -> None:
    named = {command.split()[1] for _, command in COMMANDS if command.startswith("trackside ")}
    assert named
    for name in named:
        subprocess.run([sys.executable, "-m", "trackside", name, "--help"], check=True, capture_output=True)
