"""Finding agents: references and imports."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trackside.app.wiring.agents import AgentImportError, AgentReference, AgentReferenceError, load_agent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; modules imported from it are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    modules, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def load(text: str, configured: dict[str, str] | None = None) -> object:
    return load_agent(AgentReference.parse(text, configured or {}))


def test_a_file_and_a_module_and_a_configured_name_give_the_same_agent(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "agents.py").write_text("class Kit:\n    def run(self, input): return input\nkit = Kit()\n")

    from_file = load("package/agents.py:kit.run")
    from_module = load("package.agents:kit.run")
    by_name = load("chat", {"chat": "package/agents.py:kit.run"})

    assert callable(from_file)
    assert callable(from_module)
    assert by_name == from_file


def test_two_files_of_one_name_are_two_modules(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "json.py").write_text(f"def agent(input): return {name!r}\n")

    one, two = load("one/json.py:agent"), load("two/json.py:agent")

    assert callable(one)
    assert callable(two)
    assert (one(None), two(None)) == ("one", "two")
    assert sys.modules["json"].__name__ == "json"
    assert hasattr(sys.modules["json"], "dumps")


def test_a_file_is_found_in_a_folder_whose_name_is_not_utf8(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for letter in (b"\xe9", b"\xe8"):
        place = folder / os.fsdecode(b"caf" + letter)
        place.mkdir()
        (place / "agents.py").write_text(f"def agent(input): return {letter!r}\n")
    monkeypatch.chdir(folder / os.fsdecode(b"caf\xe9"))

    acute, grave = load("agents.py:agent"), load(f"{folder / os.fsdecode(b'caf\xe8')}/agents.py:agent")

    assert callable(acute)
    assert callable(grave)
    assert (acute(None), grave(None)) == (b"\xe9", b"\xe8")


def test_a_file_finds_its_neighbours_and_itself(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "neighbour.py").write_text("def help_out(): return 42\n")
    (folder / "lib" / "agents.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from neighbour import help_out\n"
        "import pickle\n"
        "@dataclass\n"
        "class Answer:\n"
        "    value: int\n"
        "def agent(input): return pickle.loads(pickle.dumps(Answer(help_out()))).value\n"
    )

    agent = load("lib/agents.py:agent")

    assert callable(agent)
    assert agent(None) == 42


@pytest.mark.parametrize("file_of_a_project", ["trackside.toml", "langgraph.json"])
def test_what_remembers_types_of_a_project_finds_them_when_it_lies_elsewhere(
    folder: Path, file_of_a_project: str
) -> None:
    for release in ("first", "second"):
        (folder / release / "src").mkdir(parents=True)
        (folder / release / file_of_a_project).touch()
        (folder / release / "src" / "agents.py").write_text(
            "class Answer: pass\n"
            "def remember(input): return pickle.dumps(Answer())\n"
            "def recall(input): return type(pickle.loads(input)) is Answer\n"
            "import pickle\n"
        )
    modules = set(sys.modules)
    remember = load("first/src/agents.py:remember")
    assert callable(remember)
    remembered = remember(None)
    for name in set(sys.modules) - modules:  # as in another process
        del sys.modules[name]

    recall = load("second/src/agents.py:recall")

    assert callable(recall)
    assert recall(remembered)


def test_the_same_place_in_two_projects_is_two_modules(folder: Path) -> None:
    for project in ("one", "two"):
        (folder / project).mkdir()
        (folder / project / "trackside.toml").touch()
        (folder / project / "agents.py").write_text(f"def agent(input): return {project!r}\n")

    one, two = load("one/agents.py:agent"), load("two/agents.py:agent")

    assert callable(one)
    assert callable(two)
    assert (one(None), two(None)) == ("one", "two")
    assert (load("one/agents.py:agent"), load("two/agents.py:agent")) == (one, two)


def test_what_remembers_types_by_the_full_path_of_their_file_finds_them(folder: Path) -> None:
    file = folder / "agents.py"
    file.write_text("class Answer: pass\ndef agent(input): return Answer\n")
    agent = load("agents.py:agent")
    assert callable(agent)
    by_its_path = agent(None).__module__

    for name in [name for name in sys.modules if name.startswith("_trackside_agent")]:
        del sys.modules[name]
    (folder / "trackside.toml").touch()
    agent = load("agents.py:agent")

    assert callable(agent)
    assert agent(None).__module__ != by_its_path
    assert importlib.import_module(by_its_path).Answer is agent(None)


def test_a_file_that_failed_is_tried_again(folder: Path) -> None:
    file = folder / "agents.py"
    file.write_text("raise RuntimeError('not yet')\n")
    with pytest.raises(AgentImportError, match="not yet"):
        load("agents.py:agent")

    file.write_text("def agent(input): return input  # longer, so that no cached bytecode fits\n")
    assert callable(load("agents.py:agent"))


@pytest.mark.parametrize("text", ["", ":name", "agents.py:", "pkg:", "nothing"])
def test_what_is_no_reference_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(AgentReferenceError, match=r"path/file\.py:name|say which object|there is no file"):
        load(text)


def test_ctrl_c_during_an_import_is_no_failure_of_the_module(folder: Path) -> None:
    (folder / "agents.py").write_text("raise KeyboardInterrupt\n")

    with pytest.raises(KeyboardInterrupt):
        load("agents.py:agent")


@pytest.mark.parametrize("line", ["from kettles import boil", "import kettles.steel"])
def test_a_file_that_hides_the_package_it_needs_is_named(folder: Path, line: str) -> None:
    (folder / "installed" / "kettles").mkdir(parents=True)
    (folder / "installed" / "kettles" / "__init__.py").write_text("def boil(): ...\n")
    sys.path.append(str(folder / "installed"))
    (folder / "kettles.py").write_text(f"{line}\ndef agent(input): ...\n")

    with pytest.raises(AgentImportError) as failed:
        load("kettles.py:agent")

    hides = f"{folder / 'kettles.py'} hides the package kettles that is installed, so give the file another name"
    assert hides in str(failed.value)


@pytest.mark.parametrize("line", ["from agents import Agent", "import agents.extensions"])
@pytest.mark.parametrize("text", ["agents.py:desk", "agents:desk", "desk.py:desk"])
def test_a_file_with_the_name_of_a_framework_that_is_not_installed_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.setattr(sys, "path", [])
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "agents"]:
        monkeypatch.delitem(sys.modules, loaded)
    for name in ("agents.py", "desk.py"):
        (folder / name).write_text(f"{line}\ndesk = ...\n")

    with pytest.raises(AgentImportError) as failed:
        load(text)

    helps = f"give {folder / 'agents.py'} another name and pip install 'trackside[openai-agents]'"
    assert f"if the package agents is meant, which is not installed, {helps}" in str(failed.value)


def test_a_package_that_is_not_there_hides_behind_nothing(folder: Path) -> None:
    (folder / "desk.py").write_text("import kettles\n")

    with pytest.raises(AgentImportError, match=r"No module named 'kettles'\.$"):
        load("desk.py:agent")
