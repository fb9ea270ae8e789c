"""Reads the settings of an existing LangGraph project: `langgraph.json`, as it is.

What the file sets becomes entries of our own keys, below what everything else sets. `notes` lists what has no effect
here. Something that people must be able to rely on, and cannot, is an error.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from trackside.app.config_headers import CREDENTIALS
from trackside.app.settings._dotenv import variables_in
from trackside.app.settings._keys import Key
from trackside.app.settings._sources import Entry, entry_of
from trackside.app.settings.errors import SettingsError

PROJECT_FILE: Final = "langgraph.json"

_BUILD: Final = (
    "python_version",
    "node_version",
    "api_version",
    "base_image",
    "image_distro",
    "pip_config_file",
    "pip_installer",
    "dockerfile_lines",
    "keep_pkg_tools",
)
_NO_EFFECT: Final[Mapping[str, str]] = {
    "ui": "user interfaces of graphs are not served",
    "ui_config": "user interfaces of graphs are not served",
    "webhooks": "webhooks are what [server] in trackside.toml says of them",
    "auth.disable_studio_auth": "LangGraph's studio gets no access of its own",
    "auth.openapi": "the API's document lists the ways to authenticate by itself",
    "auth.cache": "each request is authenticated anew",
    "http.mount_prefix": "mount the app of `open_app` into one of yours; behind a proxy that takes the prefix away clients "
    "find their way, and people in the console do not",
    "http.disable_mcp": "agents are not tools of MCP, and Trackside has nothing at /mcp",
    "http.disable_a2a": "agents cannot be reached over A2A, and Trackside has nothing at /a2a",
    "http.disable_ui": "user interfaces of graphs are not served",
    "http.logging_headers": "headers are never logged",
    "http.cors.allow_methods": "pages of allow_origins may use all methods",
    "http.cors.allow_headers": "pages of allow_origins may send all headers",
    "http.cors.allow_credentials": "nobody is known by a cookie here",
    "http.cors.allow_origin_regex": "list the pages under allow_origins",
    "http.cors.expose_headers": "the headers that clients need can be read",
    "http.cors.max_age": "browsers are told how long they may remember",
    "store.index": "items are found by namespace and value, not by meaning",
    "store.path": "items are kept in the database; compile a graph with a store of your own",
    "store.ttl": "each item lives as long as the call that puts it says",
    "checkpointer.path": "graphs are kept as checkpoints.saver in trackside.toml says; compile one with a saver of your own",
    "checkpointer.ttl": "each thread lives as long as the call that makes it says; `trackside prune` removes old ones",
    "checkpointer.serde": "checkpoints are kept as LangGraph's library does it by default, and nothing is pickled",
}
"""Keys that are known and have no effect here, with what is true instead."""
_UNFIT: Final = re.compile("[\0\ud800-\udfff]")
_KNOWN: Final = {
    "auth": frozenset({"path"}),
    "http": frozenset({"app", "configurable_headers", "cors", "enable_custom_route_auth", "middleware_order"}),
    "http.configurable_headers": frozenset({"includes", "include", "excludes", "exclude"}),
    "http.cors": frozenset({"allow_origins"}),
    "store": frozenset[str](),
    "checkpointer": frozenset[str](),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings:
    """What a LangGraph project needs of the process that runs its graphs."""

    graphs: frozenset[str] = frozenset()
    """References to its agents; functions among them make graphs."""
    descriptions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    variables: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """Variables that the environment gets, unless it has another value for them."""
    import_roots: tuple[str, ...] = ()
    """Folders from which its modules are imported: its local dependencies, and behind them the project's own folder.

    That folder has a separator at its end if it is not a dependency: the folder of a file goes before everything else
    unless it is on the import path by the same name, and only a dependency is to stay behind what is installed.
    """
    packages: tuple[str, ...] = ()
    """What has to be installed, in the form that `pip` takes."""
    no_graphs: str = ""
    """Why there is no graph to serve; empty if there is one, or no such project."""


@dataclass(frozen=True, slots=True)
class Project:
    """What the file says: entries of our keys, what the process needs, sentences about what has no effect."""

    entries: tuple[Entry, ...] = ()
    settings: ProjectSettings = field(default_factory=ProjectSettings)
    notes: tuple[str, ...] = ()


def read_project(folder: Path, environ: Mapping[str, str]) -> Project:
    """What `langgraph.json` in a folder says; nothing if there is none.

    Raises:
        SettingsError: something in it, or in the file of variables that it names, is wrong; the message names the key.
    """
    path = folder / PROJECT_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return Project()
    except ValueError as exc:
        raise SettingsError(where=PROJECT_FILE, why=f"it is not JSON: {exc}") from exc
    except RecursionError:
        raise SettingsError(where=PROJECT_FILE, why="what is in it is nested too deeply") from None
    except OSError as exc:
        raise SettingsError(where=PROJECT_FILE, why=f"it cannot be read: {exc.strerror}") from exc
    _check_texts(document)
    return _Reader(folder, environ).read(_object(document, ""))


def _check_texts(document: Any) -> None:
    """Check that each text is one that a variable, the name of a file, a database and a log can have.

    Raises:
        SettingsError: one is not; the message names its key.
    """
    why = "has NUL or half a character in it, which no name, variable or file can have"
    rest: list[tuple[str, Any]] = [("", document)]
    while rest:
        key, value = rest.pop()
        if isinstance(value, str) and _UNFIT.search(value):
            raise SettingsError(where=_where(key), why=f"it {why}")
        if isinstance(value, list):
            rest += ((f"{key}[{number}]", one) for number, one in enumerate(value))
        elif isinstance(value, dict):
            for name in filter(_UNFIT.search, value):
                raise SettingsError(where=_where(key), why=f"{name!r} {why}")
            rest += ((f"{key}.{name}" if key else name, one) for name, one in value.items())


class _Reader:
    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._entries: list[Entry] = []
        self._notes: list[str] = []
        self._descriptions: dict[str, str] = {}

    def read(self, document: dict[str, Any]) -> Project:
        if document.get("encryption"):
            why = "nothing is encrypted here before it is kept; take it out if that is what you want"
            raise SettingsError(where=_where("encryption"), why=why)
        graphs = self._graphs(document.get("graphs"))
        variables = self._variables(document.get("env"))
        roots, packages = self._dependencies(document.get("dependencies"))
        self._auth(self._section(document, "auth"))
        self._http(self._section(document, "http"))
        for name in ("store", "checkpointer"):
            self._section(document, name)
        self._note_rest(document)
        settings = ProjectSettings(
            graphs=graphs,
            descriptions=MappingProxyType(self._descriptions),
            variables=MappingProxyType(variables),
            import_roots=roots,
            packages=packages,
            no_graphs="" if graphs else self._why_no_graphs(document),
        )
        return Project(tuple(self._entries), settings, tuple(self._notes))

    def _graphs(self, given: Any) -> frozenset[str]:
        references = set[str]()
        for name, graph in _object(given or {}, "graphs").items():
            if not name:
                raise SettingsError(where=_where("graphs"), why="the name of a graph is empty")
            key = f"graphs.{name}"
            described = graph if isinstance(graph, dict) else {"path": graph}
            for unknown in described.keys() - {"path", "description"}:
                self._notes.append(_has_no_effect(f"{key}.{unknown}", "it is not known here"))
            if (description := described.get("description")) is not None:
                self._descriptions[name] = _text(description, f"{key}.description")
            reference = self._reference(described.get("path"), f"{key}.path" if graph is described else key)
            if reference.rpartition(":")[0].endswith((".ts", ".tsx", ".js", ".mjs", ".cjs")):
                self._notes.append(
                    f"{PROJECT_FILE}, {key} is not served: only Python graphs are, and {reference} is not one"
                )
                continue
            references.add(reference)
            self._entries.append(entry_of(Key("agents", name, ""), f"{PROJECT_FILE} ({key})", reference))
        return frozenset(references)

    def _why_no_graphs(self, document: dict[str, Any]) -> str:
        """Why none of the project's graphs is served."""
        if document.get("graphs"):
            return (
                f"only Python graphs are served, and {PROJECT_FILE} has {', '.join(document['graphs'])} of another kind"
            )
        near = difflib.get_close_matches("graphs", document, 1, 0.7)
        meant = f"; unknown key {near[0]}, did you mean graphs" if near and near[0] != "graphs" else ""
        return f"{PROJECT_FILE} has no graphs{meant}"

    def _variables(self, given: Any) -> dict[str, str]:
        if given is None:
            return {}
        if not isinstance(given, dict):
            return self._variables_of_file(_text(given, "env"))
        for name in given:
            if not name or "=" in name:
                raise SettingsError(where=_where("env"), why=f"{name!r} is not the name of a variable")
        return {name: _plain(value, f"env.{name}") for name, value in given.items()}

    def _variables_of_file(self, name: str) -> dict[str, str]:
        try:
            text = (self._folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SettingsError(where=_where("env"), why=f"there is no file {name}") from None
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise SettingsError(where=_where("env"), why=f"{name} cannot be read: {why}") from None
        return variables_in(text, name, self._environ)

    def _dependencies(self, given: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Folders to import from, and packages that have to be installed."""
        roots: dict[str, None] = {}
        packages: list[str] = []
        for number, dependency in enumerate(_list(given or [], "dependencies")):
            name = _text(dependency, f"dependencies[{number}]")
            if not name.startswith((".", "/")):
                packages.append(name)
                continue
            roots |= dict.fromkeys(map(str, _import_roots(self._local(name))))
        own = str(self._folder.resolve())
        if own not in roots:
            roots[f"{own}{os.sep}"] = None
        return tuple(roots), tuple(packages)

    def _local(self, name: str) -> Path:
        """The folder of a local dependency."""
        with suppress(OSError, RuntimeError):  # a name that is too long, or links that lead to themselves
            folder = (self._folder / name).resolve()
            if folder.is_dir():
                return folder
        raise SettingsError(where=_where("dependencies"), why=f"there is no folder {name}")

    def _auth(self, auth: dict[str, Any]) -> None:
        if (path := auth.get("path")) is not None:
            reference = self._reference(path, "auth.path")
            self._entries.append(entry_of(Key("server", None, "auth"), f"{PROJECT_FILE} (auth.path)", reference))

    def _http(self, http: dict[str, Any]) -> None:
        if (app := http.get("app")) is not None:
            reference = self._reference(app, "http.app")
            self._entries.append(entry_of(Key("server", None, "app"), f"{PROJECT_FILE} (http.app)", reference))
        if (order := http.get("middleware_order")) is not None:
            source = f"{PROJECT_FILE} (http.middleware_order)"
            self._entries.append(entry_of(Key("server", None, "middleware_order"), source, order))
        if http.get("enable_custom_route_auth") is False:
            why = "the routes of http.app are behind the same authentication as all others"
            self._notes.append(_has_no_effect("http.enable_custom_route_auth: false", why))
        cors = self._section(http, "cors", "http.")
        if (origins := cors.get("allow_origins")) is not None:
            source = f"{PROJECT_FILE} (http.cors.allow_origins)"
            self._entries.append(entry_of(Key("server", None, "origins"), source, origins))
        self._headers(self._section(http, "configurable_headers", "http."))

    def _headers(self, given: dict[str, Any]) -> None:
        """Which headers runs get, under today's names of these keys and those that they had before."""
        key = "http.configurable_headers"
        included, excluded = (
            [_text(text, f"{key}.{name}") for name in names for text in _list(given.get(name) or [], f"{key}.{name}")]
            for names in (("includes", "include"), ("excludes", "exclude"))
        )
        for name in (secret := [name for name in included if name.lower() in CREDENTIALS]):
            self._notes.append(
                _has_no_effect(f"{key}: {name}", "it proves who the caller is, which never goes into a run's config")
            )
        if wanted := [name for name in included if name not in secret]:
            patterns = [*wanted, *(f"!{name}" for name in excluded)]
            source = f"{PROJECT_FILE} ({key})"
            self._entries.append(entry_of(Key("server", None, "configurable_headers"), source, patterns))
        elif not included and set(excluded) - {"*"}:
            why = "only headers that are included become part of a run's config"
            self._notes.append(_has_no_effect(f"{key}.excludes", why))

    def _section(self, document: dict[str, Any], name: str, within: str = "") -> dict[str, Any]:
        """A part of the file; notes what in it has no effect."""
        key = f"{within}{name}"
        section = _object(document.get(name) or {}, key)
        for inner, value in section.items():
            if inner in _KNOWN[key] or value in (None, False, {}, []):
                continue
            is_switch = inner.startswith("disable_") and f"{key}.{inner}" not in _NO_EFFECT
            why = "what is there is always there" if is_switch else "it is not known here"
            self._notes.append(_has_no_effect(f"{key}.{inner}", _NO_EFFECT.get(f"{key}.{inner}", why)))
        return section

    def _note_rest(self, document: dict[str, Any]) -> None:
        read = {"$schema", "graphs", "env", "dependencies", "encryption", *_KNOWN}
        if build := [name for name in _BUILD if document.get(name)]:
            why = "nothing is built: graphs run in the Python that Trackside is installed in"
            self._notes.append(f"{PROJECT_FILE}, {', '.join(build)}: not needed, {why}")
        for name in document.keys() - read - {*_BUILD}:
            near = difflib.get_close_matches(name, read, 1, 0.7)
            unknown = f"it is not known here; did you mean {near[0]}?" if near else "it is not known here"
            self._notes.append(_has_no_effect(name, _NO_EFFECT.get(name, unknown)))

    def _reference(self, value: Any, key: str) -> str:
        """Where an object is, with its file as this process finds it."""
        text = _text(value, key)
        module, colon, attribute = text.rpartition(":")
        if not (module and colon and attribute):
            why = f"{text!r} is not ./path/file.py:name or package.module:name"
            raise SettingsError(where=_where(key), why=why)
        is_file = "/" in module or Path(module).suffix in {".py", ".ts", ".tsx", ".js", ".mjs", ".cjs"}
        if is_file and not Path(module).is_absolute():
            here = Path.cwd() == self._folder
            module = os.path.normpath(module if here else self._folder / module)
        return f"{module}:{attribute}"


def _import_roots(folder: Path) -> Iterator[Path]:
    """The folders from which a local dependency is imported, as if it were installed."""
    yield folder
    if (folder / "src").is_dir():
        yield folder / "src"
    if (folder / "__init__.py").is_file():
        yield folder.parent  # the folder is a package itself


def _where(key: str) -> str:
    return f"{PROJECT_FILE}, {key}" if key else PROJECT_FILE


def _has_no_effect(key: str, why: str) -> str:
    return f"{PROJECT_FILE}, {key} has no effect: {why}"


def _checked[T](kind: type[T], called: str) -> Callable[[Any, str], T]:
    def check(value: Any, key: str) -> T:
        if isinstance(value, kind):
            return value
        raise SettingsError(where=_where(key), why=f"it is not {called}")  # not what it is: it may be a secret

    return check


_object: Callable[[Any, str], dict[str, Any]] = _checked(dict, "an object, in {…}")
_list: Callable[[Any, str], list[Any]] = _checked(list, "a list, in […]")
_text: Callable[[Any, str], str] = _checked(str, "a text, in quotes")


def _plain(value: Any, key: str) -> str:
    """The value of a variable."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(value, key)
