"""The settings of an existing LangGraph project are read as they are; those without effect are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trackside.app.settings import Settings, SettingsError, load_settings
from trackside.app.wiring.projects import missing_packages

type Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Reads a project whose langgraph.json has this content."""

    def of(
        document: Any = None, *, environ: dict[str, str] | None = None, toml: str | None = None, **files: str
    ) -> Settings:
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "langgraph.json").write_text(text, encoding="utf-8")
        if toml is not None:
            (tmp_path / "trackside.toml").write_text(toml, encoding="utf-8")
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode())
        return load_settings(environ=environ or {}, folder=tmp_path)

    return of


def test_graphs_are_agents_relative_to_the_file(load: Load, tmp_path: Path) -> None:
    settings = load(
        {
            "$schema": "https://langgra.ph/schema.json",
            "graphs": {
                "chat": "./src/chat.py:graph",
                "search": {"path": "search.py:make", "description": "Finds things."},
                "module": "my_package.graphs:graph",
            },
        }
    )
    assert settings.agents == {
        "chat": f"{tmp_path}/src/chat.py:graph",
        "search": f"{tmp_path}/search.py:make",
        "module": "my_package.graphs:graph",
    }
    assert settings.project.graphs == set(settings.agents.values())
    assert settings.project.descriptions == {"search": "Finds things."}
    assert settings.notes == ()
    assert settings.sources["agents.chat"] == "langgraph.json (graphs.chat)"


def test_references_are_as_written_in_the_current_folder(load: Load, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"graphs": {"chat": "./src/chat.py:graph"}}).agents == {"chat": "src/chat.py:graph"}


def test_the_tables_of_trackside_toml_win_and_that_is_said(load: Load) -> None:
    settings = load(
        {"graphs": {"chat": "old.py:graph", "other": "other.py:graph"}},
        toml='[agents]\nchat = "new.py:graph"\n[database]\nurl = "sqlite:///here.db"\n',
    )
    assert settings.agents["chat"] == "new.py:graph"
    assert settings.agents["other"].endswith("/other.py:graph")
    assert settings.database_url == "sqlite:///here.db"
    assert settings.notes == ("langgraph.json (graphs.chat) has no effect: trackside.toml sets agents.chat",)
    assert "new.py:graph" not in settings.project.graphs


def test_variables_come_from_the_file_or_a_mapping_and_are_settings_too(load: Load) -> None:
    of_file = load({"env": ".env"}, **{".env": "TRACKSIDE_DATABASE_URL=sqlite:///env.db\nKEY=hunter2\n"})
    of_mapping = load({"env": {"KEY": "hunter2", "PORT": 8000}})
    over = load(
        {"env": {"TRACKSIDE_DATABASE_URL": "sqlite:///env.db"}}, environ={"TRACKSIDE_DATABASE_URL": "sqlite:///o"}
    )
    assert of_file.database_url == "sqlite:///env.db"
    assert of_file.project.variables["KEY"] == "hunter2"
    assert of_mapping.project.variables == {"KEY": "hunter2", "PORT": "8000"}
    assert over.database_url == "sqlite:///o"
    assert "hunter2" not in repr(of_file)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=one", "one"),
        ("export A = one ", "one"),
        ("A=one two # comment", "one two"),
        ("A=one#two", "one#two"),
        ("A=", ""),
        ("A= # nothing", ""),
        ("A =\t#nothing", ""),
        ("A=#ff0000", "#ff0000"),
        ("A=#x9!k # a password", "#x9!k"),
        ("A=# something", "# something"),
        ("A='one # $TWO \\n'", "one # $TWO \\n"),
        ('A="one\\ntwo \\"x\\"" # comment', 'one\ntwo "x"'),
        ('A="one\ntwo"', "one\ntwo"),
        (r'A="CORP\svc"', r"CORP\svc"),
        (r'A="\d+\\w\.\101"', r"\d+\w\.\101"),
        (r'A="p@ss\$word \`x\` it\'s"', "p@ss$word `x` it's"),
        ("A=${HOME}/x", "/home/ada/x"),
        ("A=${NONE:-default}", "default"),
        ("A='${HOME}'", "${HOME}"),
        (r'A="p\${HOME}w"', "p${HOME}w"),
        (r'A="p\${NONE:-x}w"', "p${NONE:-x}w"),
        (r'A="p\\${HOME}w"', r"p\/home/adaw"),
        (r'A="${NONE:-one\ttwo \"x\"}"', 'one\ttwo "x"'),
        ("# comment\n\n  \nA=one", "one"),
        ("B=zero\n\x0c\nA=one", "one"),
        ("\u00a0\n\u00a0# comment\nA=one\n\u00a0", "one"),
        ("A=zero\r\nA=one\r\n", "one"),
        ("\ufeffA=one", "one"),
        ("B=one\nA=${B}!", "one!"),
    ],
)
def test_a_file_of_variables_is_read_as_most_tools_read_it(line: str, value: str, load: Load) -> None:
    settings = load({"env": "vars"}, environ={"HOME": "/home/ada"}, vars=line)
    assert settings.project.variables["A"] == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A=1\nsecret", "vars, line 2: it is not NAME=value"),
        ("A='secret", "vars, line 1: nothing ends what begins with '"),
        ('\nA="secret" more', 'vars, line 2: something follows the " that ends the value'),
        ("1A=secret", "vars, line 1: it is not NAME=value"),
        ('A=1\nB="secret\0"', "vars, line 2: it has NUL in it, which no variable can have"),
    ],
)
def test_a_line_that_is_none_is_named_without_its_secrets(text: str, why: str, load: Load) -> None:
    with pytest.raises(SettingsError) as raised:
        load({"env": "vars"}, vars=text)
    assert why in str(raised.value)
    assert "secret" not in str(raised.value)


def test_local_dependencies_are_import_roots_and_others_have_to_be_installed(load: Load, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "laid_out" / "src").mkdir(parents=True)
    settings = load(
        {"dependencies": [".", "./package", "./laid_out", "pytest>=8", "no-such-thing[x]==1", "git+https://x"]}
    )
    here = tmp_path.resolve()
    roots = [here, here / "package", here / "laid_out", here / "laid_out" / "src"]
    assert settings.project.import_roots == tuple(map(str, roots))
    assert [*missing_packages(settings)] == [
        "langgraph.json, dependencies: no-such-thing[x]==1 is not installed; pip install 'no-such-thing[x]==1'",
        "langgraph.json, dependencies: git+https://x does not say what is imported; make sure that it is installed",
    ]


@pytest.mark.parametrize("dependencies", [None, ["pytest"], ["./src"]])
def test_the_projects_own_folder_is_the_last_of_its_import_roots(dependencies: Any, load: Load, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    roots = load({"dependencies": dependencies}).project.import_roots
    assert [Path(root) for root in roots] == [*([tmp_path / "src"] if dependencies == ["./src"] else []), tmp_path]


def test_what_the_server_is_told_becomes_settings_of_ours(load: Load, tmp_path: Path) -> None:
    settings = load(
        {
            "auth": {"path": "./auth.py:auth"},
            "http": {
                "app": "app.py:app",
                "cors": {"allow_origins": ["https://example.org"]},
                "enable_custom_route_auth": True,
                "middleware_order": "auth_first",
            },
        }
    )
    assert settings.access.auth == f"{tmp_path}/auth.py:auth"
    assert settings.server.app == f"{tmp_path}/app.py:app"
    assert settings.server.middleware_order == "auth_first"
    assert settings.access.origins == ("https://example.org",)
    assert settings.notes == ()


@pytest.mark.parametrize(
    ("document", "note"),
    [
        ({"python_version": "3.12", "dockerfile_lines": ["RUN x"]}, "python_version, dockerfile_lines: not needed"),
        ({"graphs": {"js": "./agent.ts:graph"}}, "graphs.js is not served"),
        ({"http": {"disable_store": True}}, "http.disable_store has no effect: what is there is always there"),
        (
            {"http": {"disable_mcp": True}},
            "http.disable_mcp has no effect: agents are not tools of MCP, and Trackside has nothing at /mcp",
        ),
        (
            {"http": {"disable_a2a": True}},
            "http.disable_a2a has no effect: agents cannot be reached over A2A, and Trackside has nothing",
        ),
        ({"http": {"disable_ui": True}}, "http.disable_ui has no effect: user interfaces of graphs are not served"),
        ({"http": {"cors": {"allow_origin_regex": "x"}}}, "http.cors.allow_origin_regex has no effect: list"),
        ({"store": {"index": {"dims": 2}}}, "store.index has no effect"),
        ({"store": {"path": "./store.py:make"}}, "store.path has no effect: items are kept"),
        ({"http": {"mount_prefix": "/agents"}}, "http.mount_prefix has no effect: mount"),
        (
            {"http": {"enable_custom_route_auth": False}},
            "http.enable_custom_route_auth: false has no effect: the routes of http.app are behind",
        ),
        ({"checkpointer": {"ttl": {"default_ttl": 5}}}, "checkpointer.ttl has no effect"),
        (
            {"checkpointer": {"serde": {"pickle_fallback": True}}},
            "checkpointer.serde has no effect: checkpoints are kept as LangGraph's library does it by default, and nothing",
        ),
        ({"auth": {"cache": {"ttl_seconds": 1}}}, "auth.cache has no effect"),
        ({"ui": {"chat": "./ui.tsx"}}, "ui has no effect"),
        (
            {"http": {"configurable_headers": {"excludes": ["x-a"]}}},
            "http.configurable_headers.excludes has no effect: only",
        ),
        (
            {"http": {"configurable_headers": {"includes": ["Cookie"]}}},
            "http.configurable_headers: Cookie has no effect: it",
        ),
        (
            {"http": {"configurable_headers": {"default": 1}}},
            "http.configurable_headers.default has no effect: it is not",
        ),
        ({"tomorrow": 1}, "tomorrow has no effect: it is not known here"),
        ({"graphs": {"a": {"path": "a.py:b", "colour": "red"}}}, "graphs.a.colour has no effect"),
    ],
)
def test_what_has_no_effect_is_named(document: dict[str, Any], note: str, load: Load) -> None:
    notes = load(document).notes
    assert len(notes) == 1
    assert notes[0].startswith(f"langgraph.json, {note}")


def test_switches_that_are_off_need_no_word(load: Load) -> None:
    assert load({"http": {"disable_store": False, "cors": None}, "store": {}, "python_version": ""}).notes == ()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"includes": ["X-Tenant", "x-user-*"], "excludes": ["x-user-key"]}, ("x-tenant", "x-user-*", "!x-user-key")),
        ({"include": ["x-tenant"], "exclude": ["x-api-key"]}, ("x-tenant", "!x-api-key")),
        ({"excludes": ["*"]}, ()),
        ({"includes": [], "excludes": None}, ()),
        (None, ()),
    ],
)
def test_headers_that_graphs_get_are_those_that_it_includes(given: Any, wanted: tuple[str, ...], load: Load) -> None:
    settings = load({"http": {"configurable_headers": given}})
    assert settings.server.configurable_headers == wanted
    assert settings.notes == ()


def test_a_credential_gets_into_no_config_though_others_do(load: Load) -> None:
    settings = load({"http": {"configurable_headers": {"includes": ["Authorization", "x-tenant"]}}})
    assert settings.server.configurable_headers == ("x-tenant",)
    assert len(settings.notes) == 1


def test_headers_in_trackside_toml_take_the_place_of_all_that_it_includes(load: Load) -> None:
    settings = load(
        {"http": {"configurable_headers": {"includes": ["x-tenant"], "excludes": ["x-user"]}}},
        toml='[server]\nconfigurable_headers = ["x-user"]\n',
    )
    assert settings.server.configurable_headers == ("x-user",)
    assert "trackside.toml sets server.configurable_headers" in settings.notes[0]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("{", "langgraph.json: it is not JSON"),
        pytest.param("[" * 100_000, "langgraph.json: what is in it is nested too deeply", id="deep"),
        ([], "langgraph.json: it is not an object"),
        ({"graphs": []}, None),
        ({"http": {"configurable_headers": ["x-a"]}}, "langgraph.json, http.configurable_headers: it is not an object"),
        (
            {"http": {"configurable_headers": {"includes": "x-a"}}},
            "langgraph.json, http.configurable_headers.includes: it is not a list",
        ),
        (
            {"http": {"configurable_headers": {"includes": ["a b"]}}},
            "server.configurable_headers: 'a b' is not the name of a header",
        ),
        ({"graphs": ["x"]}, "langgraph.json, graphs: it is not an object"),
        ({"graphs": {"a": 1}}, "langgraph.json, graphs.a: it is not a text"),
        ({"graphs": {"a": "a.py"}}, "langgraph.json, graphs.a: 'a.py' is not ./path/file.py:name"),
        ({"graphs": {"a:b": "a.py:x"}}, "an agent's name has no colon"),
        ({"graphs": {"": "a.py:x"}}, "langgraph.json, graphs: the name of a graph is empty"),
        ({"graphs": {"a": "a\0.py:x"}}, "langgraph.json, graphs.a: it has NUL or half a character in it"),
        ({"graphs": {"\ud800": "a.py:x"}}, "langgraph.json, graphs: '\\ud800' has NUL or half a character in it"),
        (
            {"graphs": {"a": {"path": "a.py:x", "description": 1}}},
            "langgraph.json, graphs.a.description: it is not a text",
        ),
        ({"env": 1}, "langgraph.json, env: it is not a text"),
        ({"env": ".nothing"}, "langgraph.json, env: there is no file .nothing"),
        ({"env": {"KEY": ["secret"]}}, "langgraph.json, env.KEY: it is not a text"),
        ({"env": {"A=B": "secret"}}, "langgraph.json, env: 'A=B' is not the name of a variable"),
        ({"env": {"": "secret"}}, "langgraph.json, env: '' is not the name of a variable"),
        ({"env": {"KEY": "secret\0"}}, "langgraph.json, env.KEY: it has NUL or half a character in it"),
        ({"env": {"KEY": "secret\ud800"}}, "langgraph.json, env.KEY: it has NUL or half a character in it"),
        ({"env": {"KEY\0": "secret"}}, "langgraph.json, env: 'KEY\\x00' has NUL or half a character in it"),
        ({"dependencies": "."}, "langgraph.json, dependencies: it is not a list"),
        ({"dependencies": [1]}, "langgraph.json, dependencies[0]: it is not a text"),
        ({"dependencies": ["./nowhere"]}, "langgraph.json, dependencies: there is no folder ./nowhere"),
        pytest.param(
            {"dependencies": [f"./{'x' * 5000}"]}, "langgraph.json, dependencies: there is no folder ./x", id="long"
        ),
        ({"dependencies": [".", "./\0"]}, "langgraph.json, dependencies[1]: it has NUL or half a character in it"),
        ({"auth": "auth.py:auth"}, "langgraph.json, auth: it is not an object"),
        ({"auth": {"path": "auth.py"}}, "langgraph.json, auth.path: 'auth.py' is not"),
        ({"http": {"\udc00": True}}, "langgraph.json, http: '\\udc00' has NUL or half a character in it"),
        ({"http": {"cors": {"allow_origins": "nonsense"}}}, "langgraph.json (http.cors.allow_origins)"),
        ({"encryption": {"path": "x.py:y"}}, "langgraph.json, encryption: nothing is encrypted here"),
    ],
)
def test_nonsense_is_named_by_its_key(document: Any, complaint: str | None, load: Load) -> None:
    if complaint is None:
        assert load(document).agents == {}
        return
    with pytest.raises(SettingsError) as raised:
        load(document)
    assert complaint in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
