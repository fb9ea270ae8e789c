"""SQLite: a file, its connections, the statements of its writer, what other processes do to it."""
