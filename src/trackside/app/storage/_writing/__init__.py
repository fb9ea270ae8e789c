"""Group commit: works that wait are applied in memory and written in one transaction."""
