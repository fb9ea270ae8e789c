"""Does what how-tos say, each step in a process of its own, forked from this one, which has imported everything.

A step comes as a line of JSON on standard input: the folder, the environment, and either a program (a text), an excerpt
(a text, and the address of the store that it finds open), SQL (a text, and the address of the database), a command
(its words) or a line for a shell. What a step shows goes into the file that it names, its exit code to standard output.
A step in the background answers at once with the id of its process, and a later step of the kind `kill` ends it.
"""

import ast
import asyncio
import gc
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

import trackside.app.cli
import trackside.app.observers
from trackside.app.storage import Store


def import_everything() -> None:
    """Import what those of `tests/servers/` import, and what observers use; children never collect garbage in it."""
    sys.path.append(str(Path(__file__).parents[1] / "servers"))
    forking = importlib.import_module("forking")
    sys.path.pop()
    forking.import_everything()
    forking.import_all_in(trackside.app.observers)
    gc.collect()
    gc.freeze()


def shown_by_a_database(url: str, text: str) -> None:
    """Run statements, each beginning on a new line, and show their rows with bars between the values."""
    dialect, _, rest = url.partition(":")
    engine = create_engine(url if dialect == "sqlite" else f"postgresql+psycopg:{rest}")
    with engine.begin() as connection:
        for statement in text.split(";\n"):
            if statement.strip():
                result = connection.exec_driver_sql(statement.rstrip(";\n "))
                for row in result if result.returns_rows else ():
                    print(*row, sep="|")
    engine.dispose()


async def inside_a_store(url: str, place: str, text: str) -> None:
    code = compile(text, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with Store.open(url) as store:
        rest = eval(code, {"store": store})
        if rest is not None:
            await rest


def do(step: dict[str, Any]) -> None:
    place, text = step["place"], step["text"]
    match step["kind"], step.get("words"):
        case "program", _:
            exec(compile(text, place, "exec"), {"__name__": "__main__"})
        case "excerpt", _:
            asyncio.run(inside_a_store(step["url"], place, text))
        case "sql", _:
            shown_by_a_database(step["url"], text)
        case "shell", _:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            os.execvpe("bash", ["bash", "-c", text], {**os.environ, "PATH": path})
        case "command", ["trackside", *_] as words:
            sys.argv = words
            sys.exit(trackside.app.cli.main())
        case "command", ["python", file, *_] as words:
            sys.argv = words[1:]
            sys.path.insert(0, step["folder"])  # as Python does for a program
            runpy.run_path(file, run_name="__main__")
        case "command", [program, *_] as words:
            os.execvp(program, words)
        case _:
            raise ValueError(f"{place} says what nobody can do: {text}")


def do_and_leave(step: dict[str, Any]) -> None:
    os.chdir(step["folder"])
    os.environ.update(step["environment"])
    output = os.open(step["output"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # The existing streams assume that they write to what this program has, perhaps a file; the output may be a pipe.
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    code = 1
    try:
        do(step)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import_everything()
    for line in sys.stdin:
        step = json.loads(line)
        if step["kind"] == "kill":
            os.kill(child := step["process"], step["signal"])
        elif not (child := os.fork()):
            do_and_leave(step)
        if not step.get("background"):
            _, status = os.waitpid(child, 0)
        print(child if step.get("background") else os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
