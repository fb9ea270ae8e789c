"""Settings: where each value comes from, and one clear line for whatever is wrong."""

from pathlib import Path

import pytest

from trackside.app.settings import DEFAULT_DATABASE_URL, Settings, SettingsError, load_settings


def load(
    folder: Path, *, toml: str = "", environ: dict[str, str] | None = None, database: str | None = None
) -> Settings:
    if toml:
        (folder / "trackside.toml").write_text(toml, encoding="utf-8")
    return load_settings({"database.url": database}, environ=environ or {}, folder=folder)


def test_without_anything_there_are_defaults_and_nobody_to_blame(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert settings == Settings(agents={}, database_url=DEFAULT_DATABASE_URL, sources={})


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    toml = '[database]\nurl = "sqlite:///file.db"\n'
    environ = {"TRACKSIDE_DATABASE_URL": "sqlite:///environment.db"}

    from_file = load(tmp_path, toml=toml)
    from_environment = load(tmp_path, environ=environ)
    from_flag = load(tmp_path, environ=environ, database="sqlite:///flag.db")

    assert (from_file.database_url, from_file.sources) == (
        "sqlite:///file.db",
        {"database.url": "trackside.toml"},
    )
    assert (from_environment.database_url, from_environment.sources) == (
        "sqlite:///environment.db",
        {"database.url": "TRACKSIDE_DATABASE_URL"},
    )
    assert (from_flag.database_url, from_flag.sources) == ("sqlite:///flag.db", {"database.url": "--database"})


def test_agents_have_names_in_the_file_and_in_the_environment(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        toml='[agents]\nchat = "agents.py:graph"\n"my agent" = "pkg.mod:make"\n',
        environ={"TRACKSIDE_AGENTS_CHAT": "other.py:graph"},
    )

    assert settings.agents == {"chat": "other.py:graph", "my agent": "pkg.mod:make"}


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[database\n", "trackside.toml: it is not TOML"),
        ('[database]\nulr = "sqlite:///x.db"', "unknown key database.ulr; did you mean database.url?"),
        ("[sever]\nport = 1", "unknown key sever.port; known are agents.NAME, database.spool, database.url"),
        ("database = 3", "trackside.toml: unknown key database"),
        ("[[observers]]\ntype = 'webhook'", "trackside.toml: unknown key observers"),
        ("[database]\nurl = 3", "trackside.toml, database.url: 3 is not a text"),
        ('[database]\nurl = "runs.db"', "trackside.toml, database.url: 'runs.db' is not a database URL"),
        ("[agents]\nchat = 3", "trackside.toml, agents.chat: 3 is not a text"),
        ('[agents]\nchat = "agents.py"', "trackside.toml, agents.chat: 'agents.py' is not path/file.py:name"),
        ('[agents]\n"a:b" = "agents.py:graph"', "trackside.toml, agents.a:b: an agent's name has no colon"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_the_key(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml=toml)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(SettingsError, match="not TOML"):
        load(tmp_path)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").mkdir()

    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path)


def test_a_plain_path_for_the_database_is_answered_with_the_url_to_write(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, database="data/runs.db")

    assert str(caught.value) == (
        "--database: 'data/runs.db' is not a database URL; a file is written sqlite:///data/runs.db."
    )


@pytest.mark.parametrize("name", ["TRACKSIDE_DATABSE_URL", "TRACKSIDE_DATABASE", "TRACKSIDE_DATABASE_URI"])
def test_a_variable_that_is_nearly_a_setting_is_not_ignored(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: .*did you mean TRACKSIDE_DATABASE_URL"):
        load(tmp_path, environ={name: "sqlite:///x.db"})


def test_variables_of_others_with_the_same_prefix_are_left_alone(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"TRACKSIDE_DEBUG": "1", "TRACKSIDE_LONG": "1", "PATH": "/bin"})

    assert settings == Settings()


def test_an_error_that_shows_only_on_use_names_who_set_the_value(tmp_path: Path) -> None:
    default = load(tmp_path).database_complaint("trackside.db is locked")
    from_flag = load(tmp_path, database="sqlite:///x.db").database_complaint("it is locked")
    from_file = load(tmp_path, toml='[database]\nurl = "sqlite:///x.db"').database_complaint("it is locked")

    assert str(default) == "trackside.db (the default database) is locked."
    assert str(from_flag) == "--database: it is locked."
    assert str(from_file) == "trackside.toml, database.url: it is locked."
