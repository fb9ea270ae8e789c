"""Finds the object that an agent reference points to: `path/file.py:name`, `package.module:name`, or a configured name.

Agents are other people's code: what goes wrong in it is shown as theirs, with their own traceback and without ours.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from trackside.app.paths import is_file
from trackside.harness.adapters import as_agent
from trackside.harness.errors import NotAnAgentError, TracksideError
from trackside.harness.states import KeepsThreads

_EXTRAS = {
    "agents": "openai-agents",
    "langchain_core": "langgraph",
    "langgraph": "langgraph",
    "pydantic_ai": "pydantic-ai",
}
"""The extra that brings a framework, by the name of its package."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # of TOML, which wants quotes around all others

_PROJECT_FILES = ("trackside.toml", "langgraph.json")
"""Files in the top folder of a project, either of which marks it."""

_ACCEPTED = (
    "point at a function of the input, or of the input and the run; a LangGraph graph; or an agent of the OpenAI Agents "
    "SDK or of Pydantic AI"
)


FORGETS = "this graph's own checkpointer forgets when the program ends; compile it without one"
"""What to say of an agent that `forgets`."""


class AgentReferenceError(TracksideError, LookupError):
    """{reference} is no agent: {why}."""


class EmptyReferenceError(AgentReferenceError):
    """AGENT is empty; write path/file.py:name or package.module:name."""


class AgentImportError(TracksideError, ImportError):
    """{reference} cannot be loaded: importing {module} raised {cause}."""


class ForgetfulAgentError(TracksideError):
    """{agent} cannot take an answer: this graph's own checkpointer forgets when the program ends; compile it without one."""


@dataclass(frozen=True, slots=True)
class AgentReference:
    """Where an agent is: `module` is a path (with a slash or ending in .py) or a dotted name, `attribute` a name in it.

    `text` is what was asked for, and the name under which its runs are recorded. `attribute` may have been forgotten: it
    is empty then, and `load_agent` says what there is.
    """

    text: str
    module: str
    attribute: str

    @property
    def is_file(self) -> bool:
        """Whether `module` is a path."""
        return self.module.endswith(".py") or "/" in self.module

    def __str__(self) -> str:
        target = f"{self.module}:{self.attribute}"
        return self.text if self.text in {target, self.module} else f"agents.{self.text} = {target}"

    @classmethod
    def parse(cls, text: str, configured: Mapping[str, str]) -> AgentReference:
        """Read a reference as users write it; `configured` are the references that have names of their own.

        Raises:
            AgentReferenceError: it is neither a configured name nor of one of the two forms.
        """
        module, colon, attribute = configured.get(text, text).rpartition(":")
        if module and attribute:
            return cls(text, module, attribute)
        if not text:
            raise EmptyReferenceError
        if colon:
            raise AgentReferenceError(reference=text, why="write path/file.py:name or package.module:name")
        if cls(text, text, "").is_file:
            return cls(text, text, "")
        if configured:
            why = f"it is not among the configured names{_did_you_mean(text, configured)}: {', '.join(sorted(configured))}"
            raise AgentReferenceError(reference=text, why=why)
        raise AgentReferenceError(
            reference=text,
            why="write path/file.py:name or package.module:name, or name it in trackside.toml under [agents]",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a reference should point to: whether a value is one, and what to say of a module where none is."""

    is_one: Callable[[Any], bool]
    if_there_is_none: str


def load_agent(reference: AgentReference, *, makes_graphs: bool = False) -> Any:
    """Import the object that `reference` points to. The module's folder joins `sys.path`, as with `python file.py`.

    A function that makes graphs, or an object that is called like one, comes back as the agent that it is, and all else
    as it is in the module; `makes_graphs` is that of `as_agent`.

    Raises:
        AgentReferenceError: there is no such file, module or attribute, or no agent there; the message says what is.
        AgentImportError: the module's own code failed.
    """
    if (why := _why_it_has_no_name(reference)) is not None:
        raise AgentReferenceError(reference=reference, why=why)
    found = load_object(reference)
    try:
        agent = as_agent(found, makes_graphs=makes_graphs)
    except NotAnAgentError as exc:
        it_is = f"it is {_a(type(found).__name__)} ({found!r:.80})"
        why = exc.details["why"] if callable(found) else f"{it_is}; {_ACCEPTED}"
        raise AgentReferenceError(reference=reference, why=why) from exc
    except (TracksideError, KeyboardInterrupt):
        raise
    except BaseException as exc:  # looking at an object may run code of its author's, who has to see what fails
        raise AgentReferenceError(reference=reference, why=f"looking at it raised {_in_a_line(exc)}") from exc
    return agent if isinstance(agent, KeepsThreads) and callable(found) else found


def load_object(reference: AgentReference, wanted: Wanted | None = None) -> Any:
    """As `load_agent`, for any object; `wanted` says what it should be, an agent if left out.

    Raises:
        AgentReferenceError: there is no such file, module or attribute; the message says what is.
        AgentImportError: the module's own code failed.
    """
    wanted = wanted or _AGENT
    module = _import_file(reference) if reference.is_file else _import_module(reference)
    if not reference.attribute:
        why = f"say which object in it is meant, as {reference.module}:NAME; {_what_is_in(module, wanted)}"
        raise AgentReferenceError(reference=reference, why=why)
    found: Any = module
    for part in reference.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AgentReferenceError(reference=reference, why=_no_attribute(reference, found, part, wanted)) from None
    return found


def _why_it_has_no_name(reference: AgentReference) -> str | None:
    """What to say of `name=path/file.py:name`, which people write who want to give an agent a name; None of all else."""
    name, equals, meant = f"{reference.module}:{reference.attribute}".partition("=")
    module, _, attribute = meant.rpartition(":")
    if not (equals and module and attribute) or (reference.is_file and Path(reference.module).exists()):
        return None
    if AgentReference(meant, module, attribute).is_file and not Path(module).is_file():
        return None  # so that is not what to write, either
    why = f"write {meant}"
    if name and ":" not in name:
        key = name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        why += f", or give it a name in trackside.toml, under [agents]: {key} = {json.dumps(meant, ensure_ascii=False)}"
    return why


def forgets(agent: Any) -> bool:
    """Whether what the agent remembers of its threads is gone when the program ends."""
    checkpointer = getattr(agent, "checkpointer", None)
    return any(kind.__module__ == "langgraph.checkpoint.memory" for kind in type(checkpointer).__mro__)


def keys_instead_of_text(agent: Any) -> list[str]:
    """The keys of the object that a graph takes as its input, if it can make nothing of a text; else none."""
    if not _is_graph(agent) or "messages" in getattr(agent, "channels", ()):
        return []
    try:
        schema = agent.get_input_jsonschema()
    except Exception:  # noqa: BLE001  # its author's types, which need not have a schema
        return []
    return list(schema.get("properties", ())) if schema.get("type") == "object" else []


def _is_graph(agent: Any) -> bool:
    return any(kind.__module__.startswith("langgraph.graph.") for kind in type(agent).__mro__)


def _import_file(reference: AgentReference) -> ModuleType:
    path = Path(reference.module).absolute()
    try:
        is_there = is_file(path)
    except OSError as exc:  # its folder is closed to this user, or no file can be called that
        why = f"{reference.module} cannot be looked at: {exc.strerror}"
        raise AgentReferenceError(reference=reference, why=why) from exc
    if not is_there:
        raise AgentReferenceError(reference=reference, why=_no_file(Path(reference.module)))
    _put_on_path(path.parent)
    in_project, in_full = _module_names(path)
    if in_full in sys.modules:
        return sys.modules[in_full]
    names = [in_full] if in_project in sys.modules else [in_project, in_full]
    spec = importlib.util.spec_from_file_location(names[0], path)
    if spec is None or spec.loader is None:
        raise AgentReferenceError(reference=reference, why=f"{reference.module} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules |= dict.fromkeys(names, module)  # before it runs: data classes and pickles look their module up
    loader = spec.loader
    try:
        _contain(lambda: loader.exec_module(module), reference)
    except BaseException:
        for name in {*names}:
            del sys.modules[name]
        raise
    return module


def _module_names(path: Path) -> tuple[str, str]:
    """The names of a file's module: by its place in its project, and by its full path. Nothing else has these names: an
    agents.py here is never taken for another agents.py there, or for a package of that name.

    Checkpoints name the types in them by the first, so that they are found in whatever folder, and on whatever machine,
    the project is. The second is for files of no project, for the same place in two projects, and for what was written
    when it was the only one.
    """
    root = next((folder for folder in path.parents if any((folder / name).is_file() for name in _PROJECT_FILES)), None)
    place = str(path) if root is None else path.relative_to(root).as_posix()
    return _named_by(place, path), _named_by(str(path), path)


def _named_by(place: str, path: Path) -> str:
    own = hashlib.sha256(place.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"_trackside_agent_{own}_{path.stem}"


def _import_module(reference: AgentReference) -> ModuleType:
    _put_on_path(Path.cwd())

    def import_it() -> ModuleType:
        try:
            return importlib.import_module(reference.module)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{reference.module}.".startswith(f"{exc.name}."):
                raise  # something that the module itself wants to import
            raise AgentReferenceError(reference=reference, why=_no_module(exc.name)) from None

    return _contain(import_it, reference)


def _contain[T](import_it: Callable[[], T], reference: AgentReference) -> T:
    try:
        return import_it()
    except (AgentReferenceError, KeyboardInterrupt):
        raise
    except BaseException as exc:  # whatever an agent's module does when imported, even exit, is its author's to see
        cause = _in_a_line(exc)
        if isinstance(exc, SyntaxError) and exc.filename:  # for which `cause` names neither file nor line
            cause += f" ({_as_seen_here(exc.filename)}, line {exc.lineno})"
        if isinstance(exc, ImportError) and (hint := _what_helps(exc, reference)):
            cause += f"; {hint}"
        raise AgentImportError(reference=reference, module=reference.module, cause=cause) from exc


def _in_a_line(failure: BaseException) -> str:
    return traceback.format_exception_only(failure)[-1].strip()


def _as_seen_here(file: str) -> Path:
    path, here = Path(file), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _what_helps(failure: ImportError, reference: AgentReference) -> str | None:
    """What to do where a package could not be imported: rename the file that hides it, as an `agents.py`, or install it."""
    package = (failure.name or "").partition(".")[0]
    extra = _EXTRAS.get(package)
    found = PathFinder.find_spec(package) if package else None
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parents[found.submodule_search_locations is not None]
        elsewhere = [place for place in sys.path if Path(place).absolute() != folder]
        if PathFinder.find_spec(package, elsewhere) is not None:
            return f"{found.origin} hides the package {package} that is installed, so give the file another name"
        if extra and folder == (Path(reference.module).absolute().parent if reference.is_file else Path.cwd()):
            is_theirs = f"if the package {package} is meant, which is not installed"
            return f"{is_theirs}, give {found.origin} another name and pip install 'trackside[{extra}]'"
    return f"pip install 'trackside[{extra}]'" if extra and isinstance(failure, ModuleNotFoundError) else None


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return f"there is no file {path}{_did_you_mean(path.name, (found.name for found in path.parent.glob('*.py')))}"


def _no_module(name: str) -> str:
    files = (found.stem for found in Path.cwd().glob("*.py"))
    return f"there is no module {name}, neither in this folder nor installed{_did_you_mean(name, files)}"


def _no_attribute(reference: AgentReference, owner: Any, name: str, wanted: Wanted) -> str:
    parents = reference.attribute.split(".")
    where = ".".join([reference.module, *parents[: parents.index(name)]])
    meant = _did_you_mean(name, _those_in(owner, wanted))
    return f"{where} has no {name}{meant}; {_what_is_in(owner, wanted)}"


def _what_is_in(owner: Any, wanted: Wanted) -> str:
    return f"it has {', '.join(those)}" if (those := _those_in(owner, wanted)) else wanted.if_there_is_none


def _those_in(owner: Any, wanted: Wanted) -> list[str]:
    those = getattr(owner, "__dict__", {}).items()
    return [name for name, value in those if _is_its_own(name, value, owner) and wanted.is_one(value)]


def _is_its_own(name: str, value: Any, owner: Any) -> bool:
    """Whether the module defines this; a function or class may have been imported."""
    has_a_home = inspect.isroutine(value) or inspect.isclass(value)
    return not name.startswith("_") and (not has_a_home or value.__module__ == getattr(owner, "__name__", None))


def _is_agent(value: Any) -> bool:
    try:
        as_agent(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # what cannot be looked at is no agent either  # noqa: BLE001
        return False
    return True


_AGENT = Wanted(is_one=_is_agent, if_there_is_none="nothing in it can be run")


def _did_you_mean(text: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(text, list(known), 2, 0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
