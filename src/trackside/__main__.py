"""`python -m trackside` is the `trackside` command."""

from trackside.app.cli import main

main()
