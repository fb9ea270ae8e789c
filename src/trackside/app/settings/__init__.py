"""What can be configured, and where it comes from: flags over environment over `trackside.toml` over `langgraph.json`
over defaults.

A key is `section.name`. In the file it is `[section]` and `name = …`, in the environment `TRACKSIDE_SECTION_NAME`. Only
the command line and the wiring read settings; every other module gets what it needs as arguments.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trackside.app.paths import is_file
from trackside.app.pricing import ModelPrice
from trackside.app.settings._access import ACCESS_KEYS, AccessSettings
from trackside.app.settings._database_urls import fault_of, with_plain_scheme
from trackside.app.settings._engine import DEFAULT_POOL, ENGINE_FILES, EngineKind, EngineSettings, WorkerSettings
from trackside.app.settings._keys import (
    DATABASE_SPOOL,
    DATABASE_URL,
    ENGINE_URL,
    OBSERVERS,
    REDACT,
    SERVER_APP,
    SERVER_HOST,
    SERVER_PORT,
    Key,
)
from trackside.app.settings._langgraph_json import PROJECT_FILE, Project, ProjectSettings, read_project
from trackside.app.settings._observers import OBSERVER_KEYS, ObserverSettings, read_observers
from trackside.app.settings._sources import Entry, entry_of, from_environment, from_file, read_document
from trackside.app.settings.errors import DefaultDatabaseError, SettingsError, where_set
from trackside.harness.errors import Fault
from trackside.harness.running.ending import StopPolicy
from trackside.harness.types import AgentLimits

__all__ = [
    "DEFAULT_DATABASE_URL",
    "OBSERVER_KEYS",
    "PROJECT_FILE",
    "SETTINGS_FILE",
    "AccessSettings",
    "DefaultDatabaseError",
    "EngineKind",
    "EngineSettings",
    "ObserverSettings",
    "ProjectSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "WorkerSettings",
    "load_settings",
]

SETTINGS_FILE = "trackside.toml"
_SQLITE = "sqlite:///"
DEFAULT_DATABASE_URL = f"{_SQLITE}trackside.db"

_FLAGS: Mapping[str, tuple[Key, str]] = {
    DATABASE_URL: (Key("database", None, "url"), "--database"),
    SERVER_HOST: (Key("server", None, "host"), "--host"),
    SERVER_PORT: (Key("server", None, "port"), "--port"),
    ENGINE_URL: (Key("engine", None, "url"), "--engine"),
    "worker.pools": (Key("worker", None, "pools"), "--pool"),
    "worker.concurrency": (Key("worker", None, "concurrency"), "--concurrency"),
    "worker.host": (Key("worker", None, "host"), "--host"),
    "worker.port": (Key("worker", None, "port"), "--port"),
    "worker.isolation": (Key("worker", None, "isolation"), "--isolation"),
    "worker.memory_limit": (Key("worker", None, "memory_limit"), "--memory-limit"),
    "worker.drain": (Key("worker", None, "drain"), "--drain"),
}
_POSTGRES = re.compile(r"\Apostgres(ql)?(\+[^:/]*)?://", re.IGNORECASE)
_PASSWORDS = (re.compile(r"(\A[^:/?]+://[^:@/?]*:).*(?=@)"), re.compile(r"([?&](?:ssl)?password=)[^&]*"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the HTTP server behaves."""

    host: str = "127.0.0.1"
    """The address at which the server listens."""
    port: int = 2024
    """The port at which the server listens; 0 is any that is free."""
    heartbeat: float = 5.0
    """Seconds after which a response that is waiting says that it is alive."""
    max_body: int = 16 * 1_048_576
    """How many bytes the body of a request may have."""
    graceful: float = 5.0
    """How many seconds responses may take once the server is stopping and its runs have ended."""
    log: bool = True
    """Whether the server writes a line for each request."""
    private_webhooks: bool = False
    """Whether webhooks of runs may go to addresses on this machine or in private networks."""
    webhook_secret: str | None = field(default=None, repr=False)
    """The secret that signs webhooks of runs: `whsec_…`, or `env:NAME`; None: they are not signed."""
    console: bool = True
    """Whether the server has the console, its pages for people, at `/ui`."""
    app: str | None = None
    """A reference to an ASGI app that gets the requests that are not Trackside's; written like those of agents."""
    middleware_order: str = "middleware_first"
    """Whether the middleware of that app sees a request before the server finds out who sends it, "middleware_first", or
    after it has let the caller in, "auth_first"."""
    configurable_headers: tuple[str, ...] = ()
    """Request headers that a graph finds in its `config["configurable"]`: `x-user-*`; `!x-user-key` stays out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One consistent set of settings. `sources` says who set each key that is not at its default."""

    agents: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """References to agents (`path/file.py:name` or `package.module:name`), by the agents' names."""
    database_url: str = field(default=DEFAULT_DATABASE_URL, repr=False)
    """The database that records runs: `sqlite:///FILE` or `postgresql://…`."""
    database_spool: str | None = None
    """The folder that keeps what the database could not take, until it can; None: beside an SQLite file, else in
    `$XDG_STATE_HOME/trackside/spool` (`~/.local/state/trackside/spool`)."""
    database_spool_size: int = 256 * 1_048_576
    """How many bytes the contents of that folder may take."""
    checkpoints_saver: str = "store"
    """What keeps the threads of LangGraph graphs that have no checkpointer of their own: "store", the store itself, or
    "langgraph", LangGraph's own saver for the database."""
    default_limits: AgentLimits = field(default_factory=AgentLimits)
    """What the runs of an agent without limits of its own may use."""
    limits: Mapping[str, AgentLimits] = field(default_factory=lambda: MappingProxyType({}))
    """What the runs of an agent may use, by the agent's name: its own limits, and the default ones for the rest."""
    max_running: int = 256
    """How many runs execute at once in a process; if you set it, it also bounds a worker of a fleet, beside
    `worker.concurrency`."""
    shutdown_grace: float = 10.0
    """How many seconds a process that is ending waits for its runs."""
    stopping: StopPolicy = field(default_factory=StopPolicy)
    redact: str | None = None
    """A reference to the function that removes from events what nobody may see; written like those of agents."""
    prices: Mapping[str, ModelPrice] = field(default_factory=lambda: MappingProxyType({}))
    """Prices by the name of the model; they come before those of the price list."""
    observers: tuple[ObserverSettings, ...] = ()
    """The observers to tell, besides the database."""
    server: ServerSettings = field(default_factory=ServerSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    """Who may ask the server, and how often."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """The engine that moves runs to those who execute them."""
    pools: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The pool whose workers execute the runs of an agent, by the agent's name."""
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    """How a worker of a fleet behaves."""
    project: ProjectSettings = field(default_factory=ProjectSettings)
    """What the LangGraph project in the current folder needs, if there is one."""
    notes: tuple[str, ...] = ()
    """What was set but has no effect, and why, one sentence each; for whoever starts a server."""
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def limits_of(self, agent: str) -> AgentLimits:
        """What the runs of an agent may use."""
        return self.limits.get(agent, self.default_limits)

    def of_own_pools(self, agents: Iterable[str]) -> list[str]:
        """The agents among these whose runs a worker with these settings takes."""
        return [agent for agent in agents if self.pool_of(agent) in self.worker.pools]

    def pool_of(self, agent: str) -> str:
        """The pool whose workers execute the runs of an agent."""
        return self.pools.get(agent, DEFAULT_POOL)

    @property
    def engine_kind(self) -> EngineKind:
        """Which engine moves runs; with "inline" a process executes the runs that it admits."""
        return self.engine.kind

    @property
    def drain_seconds(self) -> float:
        """How many seconds a worker that a signal ends waits for its runs."""
        return self.shutdown_grace if self.worker.drain is None else self.worker.drain

    def check_engine(self) -> None:
        """Check that the engine can be used here. For code that is about to use it; code that only reads needs none.

        Raises:
            SettingsError: the database is not one that processes can share, or a package is not installed.
        """
        self.check_engine_database()
        if self.engine_kind == "nats" and find_spec("nats") is None:
            why = f"{self.engine.shown} needs nats-py, which is not installed: pip install 'trackside[nats]'"
            raise self.complaint(ENGINE_URL, why)

    def check_engine_database(self) -> None:
        """Check that processes can share the database, if the engine wants them to.

        Raises:
            SettingsError: they cannot.
        """
        if self.engine_kind != "inline" and not self.is_postgres:
            said = " (the default)" if self.database_source is None else f", as {self.database_source} says"
            why = (
                f"a fleet needs PostgreSQL, and the database is {self.database_shown}{said};"
                f" name it as database.url, --database or TRACKSIDE_DATABASE_URL"
            )
            raise self.complaint(ENGINE_URL, why)

    def complaint(self, key: str, why: str) -> SettingsError:
        """The error to raise for a value that fails only when it is used; it names who set the value."""
        return SettingsError(where=self.place_of(key), why=why)

    def place_of(self, key: str) -> str:
        """Where a value was set, in the words of messages; the key alone if nobody has set it."""
        source = self.sources.get(key)
        return key if source is None else where_set(key, source)

    @property
    def is_postgres(self) -> bool:
        """Whether the database has a server, which processes on several machines can share."""
        return _POSTGRES.match(self.database_url) is not None

    @property
    def sqlite_file(self) -> str | None:
        """The file of an SQLite database, as its address has it; None if the database has a server."""
        address = self.database_url
        return address.removeprefix(_SQLITE) if address.startswith(_SQLITE) else None

    @property
    def sqlite_files(self) -> list[Path]:
        """The file of an SQLite database, wherever links lead, and those that SQLite keeps beside it, whether they
        exist or not.
        """
        if self.sqlite_file is None:
            return []
        database = Path(self.sqlite_file).resolve()
        return [database, *(database.with_name(f"{database.name}-{kind}") for kind in ("wal", "shm", "journal"))]

    @property
    def database_shown(self) -> str:
        """The database's address as it may be shown: without a password."""
        shown = self.database_url
        for password in _PASSWORDS:
            shown = password.sub(r"\1…", shown)
        return shown

    @property
    def database_source(self) -> str | None:
        """Who chose the database: a flag, a variable, the file; None for the default."""
        return self.sources.get(DATABASE_URL)

    def database_complaint(self, why: str, *, fault: Fault = "caller") -> SettingsError:
        """The error to raise when the database cannot be used. Its `fault` is the store's if another address would not
        have helped to find it.
        """
        if self.database_source is None:
            name = self.sqlite_file or self.database_url
            return DefaultDatabaseError(why=why.replace(name, f"{name} (the default database)", 1), fault=fault)
        complaint = self.complaint(DATABASE_URL, why)
        return SettingsError(**complaint.details, fault=fault)


def load_settings(
    flags: Mapping[str, str | None] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Read `trackside.toml`, `langgraph.json`, the `TRACKSIDE_*` variables, and `flags` (by key; None: not given).

    If both files set a value, `trackside.toml` wins; the agents of both are served.

    If left out, `environ` is this process's environment, and `folder`, where the files are, the current folder. What
    `[engine]` and `langgraph.json` name is looked for in `folder`; all other relative paths are left as they are, and so
    go by the current folder.

    Raises:
        SettingsError: a key is unknown, a value does not fit, or a file does not have its form; the message names it.
    """
    environ = os.environ if environ is None else environ
    folder = Path.cwd() if folder is None else folder
    given = [entry_of(*_FLAGS[key], value) for key, value in (flags or {}).items() if value is not None]
    document = read_document(folder / SETTINGS_FILE)
    project = read_project(folder, environ)
    environ = {**project.settings.variables, **environ}
    entries = [*project.entries, *from_file(document, SETTINGS_FILE), *from_environment(environ), *given]
    observers = read_observers(document.get(OBSERVERS, []), SETTINGS_FILE)
    settings = replace(_settings_of({entry.key: entry for entry in entries}.values()), observers=observers)
    settings = _with_notes(_with_engine_files(_with_project(settings, project), folder))
    _check(settings)
    _check_fleet(settings)
    return settings


def _with_project(settings: Settings, project: Project) -> Settings:
    """The settings with what a LangGraph project needs, and notes of what it sets that something else overrides."""
    sources = settings.sources
    notes = [
        f"{entry.source} has no effect: {sources[str(entry.key)]} sets {entry.key}"
        for entry in project.entries
        if sources[str(entry.key)] != entry.source
    ]
    return replace(settings, project=project.settings, notes=(*project.notes, *notes))


def _with_engine_files(settings: Settings, folder: Path) -> Settings:
    """The settings with the paths of the engine's files, resolved against the folder; each is there and is a file."""
    found: dict[str, Any] = {}
    unheard: list[str] = []
    for name in ENGINE_FILES:
        if (path := getattr(settings.engine, name)) is None:
            continue
        found[name] = (folder / path.expanduser()).absolute()
        try:
            is_there = is_file(found[name])
        except OSError as exc:  # its folder is closed to this user, or no file can be called that
            raise settings.complaint(f"engine.{name}", f"{path} cannot be looked at: {exc.strerror}") from exc
        if not is_there:
            raise settings.complaint(f"engine.{name}", f"there is no file {path}")
        if settings.engine_kind != "nats":
            unheard.append(f"engine.{name} has no effect: the engine is {settings.engine.shown}")
    return replace(settings, engine=replace(settings.engine, **found), notes=(*settings.notes, *unheard))


def _with_notes(settings: Settings) -> Settings:
    """The settings with a note of each that was set but has no effect beside others."""
    access, server, worker = settings.access, settings.server, settings.worker
    unheard = {
        "server.hosts": f"server.auth is {access.auth}" if access.auth != "none" else None,
        "server.middleware_order": "server.app is not set" if server.app is None else None,
        "worker.host": "worker.port is not set" if worker.port is None else None,
    }
    notes = [
        f"{key} has no effect: {why}"
        for key, why in unheard.items()
        if why is not None
        and not settings.sources.get(key, PROJECT_FILE).startswith(PROJECT_FILE)  # meant for LangGraph
    ]
    return replace(settings, notes=(*settings.notes, *notes))


def _settings_of(entries: Iterable[Entry]) -> Settings:
    plain: dict[str, dict[str, Any]] = defaultdict(dict)
    owned: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    sources: dict[str, str] = {}
    for key, source, value in entries:
        (plain[key.section] if key.owner is None else owned[key.section][key.owner])[key.name] = value
        sources[str(key)] = source
    database, runs, limits = plain["database"], plain["runs"], AgentLimits(**plain["limits"])
    access = {name: plain["server"].pop(name) for name in ACCESS_KEYS if name in plain["server"]}
    stopping = {name: runs.pop(name) for name in ("cancel_after", "stuck_after") if name in runs}
    return Settings(
        agents={name: values[""] for name, values in owned["agents"].items()},
        database_url=with_plain_scheme(database.get("url", DEFAULT_DATABASE_URL)),
        **{f"database_{name}": value for name, value in database.items() if name != "url"},
        **{f"checkpoints_{name}": value for name, value in plain["checkpoints"].items()},
        default_limits=limits,
        limits={name: replace(limits, **own) for name, own in owned["limits"].items()},
        stopping=StopPolicy(**stopping),
        prices={model: _price(model, values, sources) for model, values in owned["prices"].items()},
        server=ServerSettings(**plain["server"]),
        access=AccessSettings(**access),
        engine=EngineSettings(**plain["engine"]),
        pools={name: values[""] for name, values in owned["pools"].items()},
        worker=WorkerSettings(**plain["worker"]),
        sources=sources,
        **runs,
    )


def _price(model: str, values: dict[str, Any], sources: Mapping[str, str]) -> ModelPrice:
    for name in ("input_per_million", "output_per_million"):
        if name not in values:
            source = sources[str(Key("prices", model, next(iter(values))))]
            raise SettingsError(where=where_set(f"prices.{model}", source), why=f"{name} is missing")
    return ModelPrice(**values)


def _check(settings: Settings) -> None:
    if (why := fault_of(settings.database_url)) is not None:
        raise settings.database_complaint(why)
    if settings.database_spool is not None and (not settings.database_spool or "\0" in settings.database_spool):
        raise settings.complaint(DATABASE_SPOOL, f"{settings.database_spool!r} is not the name of a folder")
    for name, reference in settings.agents.items():
        if ":" in name or "\0" in name:
            raise settings.complaint(f"agents.{name}", f"an agent's name has no colon and no NUL, as {name!r} has")
        _check_reference(settings, f"agents.{name}", reference)
    if settings.redact is not None:
        _check_reference(settings, REDACT, settings.redact)
    if settings.server.app is not None:
        _check_reference(settings, SERVER_APP, settings.server.app)
    for name in settings.limits:
        _check_agent(settings, next(key for key in settings.sources if key.startswith(f"limits.{name}.")), name)


def _check_fleet(settings: Settings) -> None:
    engine, worker = settings.engine, settings.worker
    for name in settings.pools:
        _check_agent(settings, f"pools.{name}", name)
    for given, missing in (("certificate", "key"), ("key", "certificate")):
        if getattr(engine, given) is not None and getattr(engine, missing) is None:
            raise settings.complaint(f"engine.{given}", f"engine.{missing} is missing, which belongs to it")
    if worker.memory_limit is not None and worker.isolation == "none":
        why = 'runs that share the worker\'s process share its memory; it needs worker.isolation = "process"'
        raise settings.complaint("worker.memory_limit", why)
    if settings.database_source != _FLAGS[DATABASE_URL][1]:
        settings.check_engine_database()  # to look into a database other than the fleet's, one names it by a flag


def _check_agent(settings: Settings, key: str, name: str) -> None:
    if name not in settings.agents:
        configured = ", ".join(sorted(settings.agents)) or "none"
        raise settings.complaint(key, f"no agent is named {name!r}; those under [agents] are: {configured}")


def _check_reference(settings: Settings, key: str, reference: str) -> None:
    if not all(reference.rpartition(":")):
        raise settings.complaint(key, f"{reference!r} is not path/file.py:name or package.module:name")
