"""How what was recorded looks on a terminal, and as JSON for programs."""
