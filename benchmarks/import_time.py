"""What `import trackside` costs on top of a bare interpreter, in milliseconds."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 20
STATEMENTS = ("pass", "import asyncio", "import trackside")


def milliseconds(statement: str, environment: dict[str, str]) -> float:
    """How long a fresh interpreter takes to start, run `statement` and stop."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    return (time.perf_counter() - start) * 1_000


def measure(bytecode: str) -> list[tuple[float, ...]]:
    """All rounds, with compiled modules kept in the folder `bytecode`, as an installed package has them."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for statement in STATEMENTS:
        milliseconds(statement, environment)
    # Interleaved, so that a slow moment of the machine meets all three.
    return [tuple(milliseconds(statement, environment) for statement in STATEMENTS) for _ in range(ROUNDS)]


def main() -> None:
    with tempfile.TemporaryDirectory() as bytecode:
        samples = measure(bytecode)
    columns = list(zip(*samples, strict=True))
    for statement, column in zip(STATEMENTS, columns, strict=True):
        least, median = min(column), statistics.median(column)
        print(
            f"{statement:<18}least {least:6.1f} ms ({least - min(columns[0]):+6.1f})"
            f"   median {median:6.1f} ms ({median - statistics.median(columns[0]):+6.1f})"
        )


if __name__ == "__main__":
    main()
