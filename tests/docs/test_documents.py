"""Each code block of a document is usable for its reader; links and scripts exist.

The language of a block says how it is checked (`block_checks`). `test_how_to.py` also works through those of docs/. A
block that cannot be checked says why, in a comment in front of it: `<!-- unchecked: needs a GPU -->`.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from block_checks import CHECKS, DONE_IN_PAGES, SHOWN, TOGETHER, wrong_javascript
from blocks import DOCS, DOCUMENTS, ROOT, Block, blocks_of, commands_in

from trackside.app.settings._keys import _PLAIN

BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
EVERY_DOCUMENT = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))


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
    code, shown, *_ = blocks_of(ROOT / "README.md")
    printed = run(code, tmp_path).splitlines()
    for line, expected in zip(printed, shown.text.splitlines(), strict=True):
        pattern = re.sub(r"…", ".*", re.sub(r"([\[\](){}.?*+|^$\\])", r"\\\1", expected))
        assert re.fullmatch(pattern, line), f"{line!r} is not {expected!r}"


@EVERY_DOCUMENT
def test_every_block_is_what_its_language_asks_for(document: Path, tmp_path: Path) -> None:
    for block in blocks_of(document):
        if block.unchecked is not None or block.language in SHOWN | TOGETHER:
            continue
        if block.language in DONE_IN_PAGES:
            assert document.is_relative_to(DOCS), f"{block} is {block.language}, which only pages of docs/ may have"
            continue
        assert block.language in CHECKS, f"{block} is in no language that is checked: {block.language or 'none'}"
        try:
            CHECKS[block.language](block, tmp_path)
        except Exception as exc:
            raise AssertionError(f"{block} is wrong: {exc}") from exc


def test_javascript_and_typescript_can_be_read() -> None:
    found = [block for block in BLOCKS if block.language in TOGETHER and block.unchecked is None]
    assert found
    assert wrong_javascript(found) == {}


@EVERY_DOCUMENT
def test_who_does_what_a_page_says_has_the_packages_of_langgraph_that_its_programs_import(document: Path) -> None:
    programs = "".join(block.text for block in blocks_of(document) if block.language == "py")
    if imported := re.search(r"^ *(?:from|import) (langgraph\w*)", programs, re.MULTILINE):
        installs = r"pip install [^\n`]*(?:trackside\[[\w,-]*langgraph\b|\blanggraph-sdk\b)"
        assert re.search(installs, document.read_text(encoding="utf-8")), f"nothing says what brings {imported[1]}"


def test_prometheus_is_given_a_place_for_its_key_wherever_it_asks_a_server() -> None:
    of_servers = [block for block in BLOCKS if "scrape_configs:" in block.text and ":2024" in block.text]
    assert of_servers
    for block in of_servers:
        (job,) = yaml.safe_load(block.text.replace("    # ", "    "))["scrape_configs"]
        assert job.get("authorization") == {"credentials_file": "trackside.key"}, f"{block} has none"


@EVERY_DOCUMENT
def test_links_inside_the_repository_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_the_keys_of_servers_are_on_the_page_that_the_settings_name_for_them() -> None:
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| `\[server\]` \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", text, re.MULTILINE)
    named = {key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == {key for key in _PLAIN["server"] if not key.startswith("jwt_")}  # which the page about access has


def module_of(name: str) -> str:
    """The module that a dotted name leads to, or to something in it."""
    while True:
        try:
            if find_spec(name) is not None:
                return name
        except ModuleNotFoundError:  # what is in front of its last dot is no package
            pass
        name = name.rpartition(".")[0]


def test_what_pages_name_of_our_modules_is_in_the_reference_of_those_that_do_not_change() -> None:
    reference = DOCS / "reference"
    pages = [path for path in DOCUMENTS if path.is_relative_to(DOCS) and not path.is_relative_to(reference)]
    text = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *pages])
    named = set(re.findall(r"(?:\bfrom |`)(trackside(?:\.\w+)*)", text))
    of_pages = "".join(path.read_text(encoding="utf-8") for path in (reference / "api").glob("*.md"))
    assert sorted({*map(module_of, named)} - {*re.findall(r"^::: ([\w.]+)$", of_pages, re.MULTILINE)}) == []


def test_a_block_that_is_wrong_is_found(tmp_path: Path) -> None:
    document = ROOT / "README.md"
    wrong = [
        ("sh", "trackside rnu agents.py:greet\n"),
        ("sh", "pip install trackside[nats]\n"),
        ("console", "$ trackside runs --stauts error\n"),
        ("toml", "# trackside.toml\n[server]\nprot = 1\n"),
        ("json", "{'a': 1}\n"),
        ("yaml", "a: [\n"),
        ("html", "<p><b></p>\n"),
        ("ini", "[Service]\nexec start=x\n"),
        ("ini", "[Service]\nExecStart=/opt/trackside/bin/trackside worker\n"),
        ("ini", "[Service]\nExecStart=/opt/trackside/bin/trackside worker\nKillMode=mixed\n"),
        ("conf", "listen: [\n"),
        ("dockerfile", "RUN pip install trackside\n"),
        ("py", "def f(:\n"),
    ]
    for language, text in wrong:
        with pytest.raises(Exception, match=r"."):
            CHECKS[language](Block(document, 1, language, text), tmp_path)
    assert [
        *wrong_javascript([Block(document, 7, "js", "const = 1;\n"), Block(document, 8, "ts", "let a: string;\n")])
    ] == ["README.md:7"]


def test_commands_have_their_lines_and_not_what_they_show() -> None:
    block = Block(ROOT / "README.md", 1, "console", "$ trackside runs \\\n>   --json\n{}\n$ ls\nagents.py\n")
    assert commands_in(block) == ["trackside runs --json", "ls"]
