"""What `import trackside` costs on top of a bare interpreter, in milliseconds."""

import statistics
import subprocess
import sys
import time

ROUNDS = 20
STATEMENTS = ("pass", "import asyncio", "import trackside")


def milliseconds(statement: str) -> float:
    """How long a fresh interpreter takes to start, run `statement` and stop."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - start) * 1_000


def main() -> None:
    for statement in STATEMENTS:
        milliseconds(statement)  # once for the bytecode and the disk cache
    # Interleaved, so that a slow moment of the machine meets all three.
    samples = [tuple(milliseconds(statement) for statement in STATEMENTS) for _ in range(ROUNDS)]
    columns = list(zip(*samples, strict=True))
    for statement, column in zip(STATEMENTS, columns, strict=True):
        least, median = min(column), statistics.median(column)
        print(
            f"{statement:<18}least {least:6.1f} ms ({least - min(columns[0]):+6.1f})"
            f"   median {median:6.1f} ms ({median - statistics.median(columns[0]):+6.1f})"
        )


if __name__ == "__main__":
    main()
