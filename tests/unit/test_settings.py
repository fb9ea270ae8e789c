"""Settings: where each value comes from, and one clear line for anything that is wrong."""

from pathlib import Path

import pytest

from trackside import StopPolicy
from trackside.app.pricing import ModelPrice
from trackside.app.settings import DEFAULT_DATABASE_URL, Settings, SettingsError, load_settings
from trackside.app.settings.variables import NO_SETTINGS
from trackside.harness import AgentLimits


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
        pytest.param(f"port = {'9' * 5_000}", "trackside.toml: it is not TOML", id="an endless number"),
        pytest.param(f"a = {'[' * 100_000}", "trackside.toml: what is in it is nested too deeply", id="deep"),
        ('[database]\nulr = "sqlite:///x.db"', "unknown key database.ulr; did you mean database.url?"),
        ("[sever]\nport = 1", "unknown key sever.port; did you mean server.port?"),
        (
            "[cluster]\nsize = 1",
            "unknown key cluster.size; there are the sections [agents], [checkpoints], [database], ",
        ),
        ("[server]\nlimitt = 3", "unknown key server.limitt; [server] has app, auth, configurable_headers, "),
        ("[server]\nmax_strems = 3", "unknown key server.max_strems; did you mean server.max_streams?"),
        ("[server]\nshutdown_grace = 3", "unknown key server.shutdown_grace; did you mean runs.shutdown_grace?"),
        ('[checkpoints]\nsaver = "sqlite"', '\'sqlite\' is no saver; choose "store" or "langgraph"'),
        ("database = 3", "trackside.toml: unknown key database; it is a section, which begins with [database]"),
        ("observers = 3", "trackside.toml, observers: each begins with [[observers]]"),
        ("[database]\nurl = 3", "trackside.toml, database.url: 3 is not a text"),
        ('[database]\nurl = "runs.db"', "trackside.toml, database.url: 'runs.db' is not a database URL"),
        ("[agents]\nchat = 3", "trackside.toml, agents.chat: 3 is not a text"),
        ('[agents]\nchat = "agents.py"', "trackside.toml, agents.chat: 'agents.py' is not path/file.py:name"),
        ('[agents]\n"a:b" = "agents.py:graph"', "trackside.toml, agents.a:b: an agent's name has no colon"),
        ('[agents]\n"a\\u0000" = "agents.py:graph"', "an agent's name has no colon and no NUL, as 'a\\x00' has"),
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


def test_a_mark_of_its_encoding_at_the_beginning_of_the_file_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").write_text("[server]\nport = 8080\n", encoding="utf-8-sig")

    assert load(tmp_path).server.port == 8080


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trackside.toml").mkdir()

    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["TRACKSIDE_DATABSE_URL", "TRACKSIDE_DATABASE", "TRACKSIDE_DATABASE_URI"])
def test_a_variable_that_is_nearly_a_setting_is_not_ignored(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: .*did you mean TRACKSIDE_DATABASE_URL"):
        load(tmp_path, environ={name: "sqlite:///x.db"})


def test_variables_of_others_with_the_same_prefix_are_left_alone(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"TRACKSIDE_DEBUG": "1", "TRACKSIDE_LONG": "1", "PATH": "/bin"})

    assert settings == Settings()


@pytest.mark.parametrize("name", sorted(NO_SETTINGS))
def test_a_variable_of_ours_that_is_no_setting_is_none_that_is_nearly_one(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, environ={name: "1"}) == Settings()


def service_links(service: str, address: str = "10.0.0.1", shown: str = "10.0.0.1") -> dict[str, str]:
    """What Kubernetes puts into each container of a namespace that has a Service with this name and two ports."""
    name = service.upper().replace("-", "_")
    links = {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": "2024",
        f"{name}_SERVICE_PORT_HTTP": "2024",
        f"{name}_SERVICE_PORT_SYSLOG_UDP": "514",
        f"{name}_PORT": f"tcp://{shown}:2024",
    }
    for number, protocol in ((2024, "tcp"), (514, "udp"), (3868, "sctp")):
        one = f"{name}_PORT_{number}_{protocol.upper()}"
        links |= {
            one: f"{protocol}://{shown}:{number}",
            f"{one}_PROTO": protocol,
            f"{one}_PORT": str(number),
            f"{one}_ADDR": address,
        }
    return links


@pytest.mark.parametrize(
    "service",
    [
        "trackside",
        "trackside-server",
        "trackside-worker",
        "trackside-nats",
        "trackside-engine",
        "trackside-database",
        "trackside-agents",
        "trackside-limits",
        "trackside-pools",
        "trackside-prices",
        "trackside-observers",
    ],
)
def test_where_a_service_of_kubernetes_is_sets_nothing_whatever_it_is_called(tmp_path: Path, service: str) -> None:
    fourth, sixth = service_links(service), service_links(service, "fd00:10:96::1f", "[fd00:10:96::1f]")

    assert load(tmp_path, environ=fourth) == load(tmp_path, environ=sixth) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TRACKSIDE_SERVER_PORT", "http://10.0.0.1:2024", "is not a port"),
        ("TRACKSIDE_SERVER_PORT", "tcp://server:2024", "is not a port"),
        ("TRACKSIDE_SERVICE_PORT", "any", "did you mean TRACKSIDE_SERVER_PORT?"),
        ("TRACKSIDE_SERVICE_HOST", "server", "did you mean TRACKSIDE_SERVER_HOST?"),
        ("TRACKSIDE_SERVER_PORTS", "2024", "did you mean TRACKSIDE_SERVER_PORT?"),
        ("TRACKSIDE_WORKER_HOSTS", "10.0.0.1", "did you mean TRACKSIDE_WORKER_HOST?"),
    ],
)
def test_what_kubernetes_would_not_say_so_is_a_mistake_as_before(
    tmp_path: Path, name: str, value: str, says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, environ={**service_links("trackside-server"), name: value})

    assert str(caught.value).startswith(f"{name}: ")
    assert says in str(caught.value)


def test_a_port_beside_those_of_a_service_is_the_one_that_is_set(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={**service_links("trackside"), "TRACKSIDE_SERVER_PORT": "8080"})

    assert (settings.server.port, settings.sources) == (8080, {"server.port": "TRACKSIDE_SERVER_PORT"})


def test_an_error_that_shows_only_on_use_names_who_set_the_value(tmp_path: Path) -> None:
    default = load(tmp_path).database_complaint("trackside.db is locked")
    from_flag = load(tmp_path, database="sqlite:///x.db").database_complaint("it is locked")
    from_file = load(tmp_path, toml='[database]\nurl = "sqlite:///x.db"').database_complaint("it is locked")

    assert str(default) == "trackside.db (the default database) is locked."
    assert str(from_flag) == "--database: it is locked."
    assert str(from_file) == "trackside.toml, database.url: it is locked."


LIMITS = """
[agents]
chat = "agents.py:graph"
"my agent" = "agents.py:other"

[limits]
timeout = "5m"
max_cost_usd = 0.5

[limits.chat]
max_running = 2
timeout = 90
max_tokens = 1000
max_llm_calls = 3
max_tool_calls = 4
max_attempts = 2
"""


def test_an_agent_has_its_own_limits_and_for_the_rest_those_of_all(tmp_path: Path) -> None:
    settings = load(tmp_path, toml=LIMITS)

    assert settings.limits_of("my agent") == AgentLimits(timeout=300.0, max_cost_usd=0.5)
    assert settings.limits_of("another.py:agent") == AgentLimits(timeout=300.0, max_cost_usd=0.5)
    assert settings.limits_of("chat") == AgentLimits(
        max_running=2,
        timeout=90.0,
        max_tokens=1000,
        max_cost_usd=0.5,
        max_llm_calls=3,
        max_tool_calls=4,
        max_attempts=2,
    )


def test_an_agent_may_be_named_as_a_limit_is(tmp_path: Path) -> None:
    settings = load(tmp_path, toml='[agents]\ntimeout = "a.py:b"\n[limits.timeout]\nmax_tokens = 7')

    assert settings.limits_of("timeout") == AgentLimits(max_tokens=7)


def test_limits_prices_and_runs_can_be_set_in_the_environment_too(tmp_path: Path) -> None:
    environ = {
        "TRACKSIDE_LIMITS_TIMEOUT": "30s",
        "TRACKSIDE_LIMITS_MAX_TOKENS": "500",
        "TRACKSIDE_LIMITS_CHAT_TIMEOUT": "1m",
        "TRACKSIDE_RUNS_MAX_RUNNING": "8",
        "TRACKSIDE_RUNS_SHUTDOWN_GRACE": "0",
        "TRACKSIDE_PRICES_LLAMA3_INPUT_PER_MILLION": "0.1",
        "TRACKSIDE_PRICES_LLAMA3_OUTPUT_PER_MILLION": "0.2",
    }
    settings = load(tmp_path, toml=LIMITS, environ=environ)

    assert settings.limits_of("my agent") == AgentLimits(timeout=30.0, max_tokens=500, max_cost_usd=0.5)
    assert settings.limits_of("chat").timeout == 60.0
    assert settings.limits_of("chat").max_tokens == 1000
    assert (settings.max_running, settings.shutdown_grace) == (8, 0.0)
    assert settings.prices == {"llama3": ModelPrice(input_per_million=0.1, output_per_million=0.2)}
    assert settings.sources["limits.chat.timeout"] == "TRACKSIDE_LIMITS_CHAT_TIMEOUT"
    assert settings.sources["limits.chat.max_tokens"] == "trackside.toml"


def test_how_runs_are_stopped_and_what_models_cost_stands_in_the_file(tmp_path: Path) -> None:
    toml = """
[runs]
max_running = 4
shutdown_grace = "1m"
cancel_after = 2.5
stuck_after = "20s"
redact = "privacy.py:hide"

[prices."gpt-4.1"]
input_per_million = 1
output_per_million = 2.5
cache_read_per_million = 0
cache_write_per_million = 1.25
"""
    settings = load(tmp_path, toml=toml)

    assert (settings.max_running, settings.shutdown_grace) == (4, 60.0)
    assert settings.stopping == StopPolicy(cancel_after=2.5, stuck_after=20.0)
    assert settings.redact == "privacy.py:hide"
    assert settings.prices == {
        "gpt-4.1": ModelPrice(
            input_per_million=1.0, output_per_million=2.5, cache_read_per_million=0.0, cache_write_per_million=1.25
        )
    }


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[limits]\ntiemout = 3", "trackside.toml: unknown key limits.tiemout; did you mean limits.timeout?"),
        ("[limits.chat]\nmax_token = 3", "unknown key limits.chat.max_token; did you mean limits.chat.max_tokens?"),
        ("[runs]\nmax_runing = 3", "unknown key runs.max_runing; did you mean runs.max_running?"),
        ("[limits]\nmax_tokens = 0", "trackside.toml, limits.max_tokens: 0 is not a whole number from 1 up"),
        ("[limits]\nmax_tokens = true", "limits.max_tokens: True is not a whole number"),
        ("[limits]\nmax_tokens = 1.5", "limits.max_tokens: 1.5 is not a whole number"),
        ('[limits]\ntimeout = "soon"', "limits.timeout: 'soon' is not a length of time; write 90, 30s"),
        ("[limits]\ntimeout = -1", "limits.timeout: -1 is not a length of time"),
        ("[limits]\ntimeout = true", "limits.timeout: True is not a length of time"),
        ("[limits]\ntimeout = 0", "limits.timeout: a run that may take no time could do nothing"),
        ("[limits]\nmax_cost_usd = 0", "limits.max_cost_usd: a run that may cost nothing could not call a model"),
        ('[limits]\nmax_cost_usd = "nan"', "limits.max_cost_usd: 'nan' is not a number of US dollars"),
        ("[limits]\nmax_cost_usd = inf", "limits.max_cost_usd: inf is not a number of US dollars"),
        ("[limits.chat]\ntimeout = 3", "trackside.toml, limits.chat.timeout: no agent is named 'chat'"),
        ("[limits.chat.x]\ntimeout = 3", "unknown key limits.chat.x; a name with a dot stands in quotes"),
        ("[prices.gpt-4.1]\ninput_per_million = 3", 'stands in quotes, [prices."gpt-4.1"]'),
        ("[prices.m]\ninput_per_million = 3", "trackside.toml, prices.m: output_per_million is missing"),
        ('[prices.m]\ninput_per_million = "dear"', "prices.m.input_per_million: 'dear' is not a number of US dollars"),
        ("[prices]\ngpt = 3", "trackside.toml: unknown key prices.gpt"),
        pytest.param(
            f"[limits]\nmax_cost_usd = 1{'0' * 400}", "is not a number of US dollars from 0 up", id="beyond all money"
        ),
        pytest.param(f"[runs]\nshutdown_grace = 1{'0' * 400}", "is not a length of time", id="beyond all time"),
        ("[runs]\nredact = true", "trackside.toml, runs.redact: True is not a text"),
        ('[runs]\nredact = "hide"', "runs.redact: 'hide' is not path/file.py:name or package.module:name"),
        ("[database.x]\nurl = 1", "trackside.toml: unknown key database.x"),
    ],
)
def test_a_mistake_in_limits_prices_or_runs_names_the_key(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, toml=toml)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TRACKSIDE_RUNS_MAX_RUNNING", "many", "'many' is not a whole number"),
        ("TRACKSIDE_RUNS_MAX_RUNING", "3", "did you mean TRACKSIDE_RUNS_MAX_RUNNING?"),
        ("TRACKSIDE_LIMITS_SPEED", "3", "there is no such setting; there are TRACKSIDE_LIMITS_NAME_MAX_RUNNING"),
        ("TRACKSIDE_LIMITS_OTHER_TIMEOUT", "3", "no agent is named 'other'"),
        ("TRACKSIDE_PRICES_GPT", "3", "there is no such setting; there are TRACKSIDE_PRICES_NAME_INPUT_PER_MILLION"),
        ("TRACKSIDE_AGENTS_", "a.py:b", "there is no such setting; there are TRACKSIDE_AGENTS_NAME"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path, name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, environ={name: value})

    assert str(caught.value).startswith(f"{name}: ")
    assert says in str(caught.value)


def test_the_document_shows_every_section_as_it_is_read(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    toml = document.split("```toml\n")[1].split("```")[0]

    settings = load(tmp_path, toml=toml)

    assert settings.limits_of("research") == AgentLimits(
        max_running=2,
        timeout=300.0,
        max_tokens=200_000,
        max_cost_usd=0.5,
        max_llm_calls=40,
        max_tool_calls=100,
        max_attempts=3,
    )
    assert settings.prices["my-model"].cache_read_per_million == 0.05
    assert (settings.max_running, settings.shutdown_grace) == (64, 30.0)
    assert (settings.engine.servers, settings.pool_of("research")) == (("nats://nats.example:4222",), "gpu")
    assert (settings.worker.pools, settings.worker.memory_limit) == (("default", "gpu"), 2 * 1_073_741_824)
    assert [(observer.name, dict(observer.options)) for observer in settings.observers] == [
        ("crm", {"url": "https://example.org/hook", "secret": "env:HOOK_SECRET"})
    ]
