"""Does what how-tos say, each step in a process of its own that is forked from this one, which has imported everything.

A step comes as a line of JSON on standard input: the folder, the environment, and either a program (a text), an excerpt
(a text, and the address of the store that it finds open) or a command (its words). What it shows goes into the file that
the step names, its exit code to standard output.
"""

import ast
import asyncio
import importlib
import json
import os
import pkgutil
import runpy
import sys
import traceback
from typing import Any

import trackside.app.cli
import trackside.app.storage
from trackside.app.storage import Store


def import_everything() -> None:
    for package in (trackside.app.cli, trackside.app.storage):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


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
        case "command", ["trackside", *_] as words:
            sys.argv = words
            sys.exit(trackside.app.cli.main())
        case "command", ["python", file, *_] as words:
            sys.argv = words[1:]
            runpy.run_path(file, run_name="__main__")
        case _:
            raise ValueError(f"{place} says what nobody can do: {text}")


def do_and_leave(step: dict[str, Any]) -> None:
    os.chdir(step["folder"])
    os.environ.update(step["environment"])
    output = os.open(step["output"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
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
        child = os.fork()
        if not child:
            do_and_leave(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
