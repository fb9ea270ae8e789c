"""`python -m trackside` is the `trackside` command."""

import sys

from trackside.app.cli import main

sys.exit(main())
