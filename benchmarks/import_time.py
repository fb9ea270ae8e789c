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
    medians = [statistics.median(column) for column in zip(*samples, strict=True)]
    for statement, median in zip(STATEMENTS, medians, strict=True):
        print(f"{statement:<18}{median:7.1f} ms   {median - medians[0]:+6.1f} ms beside bare Python")


if __name__ == "__main__":
    main()
