"""Threads and what is remembered beside them: works, searches, states, items."""
