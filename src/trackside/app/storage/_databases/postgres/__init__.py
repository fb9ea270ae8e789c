"""PostgreSQL: its connections, the statements of its writer, and the notices by which processes tell each other."""
