"""The demo of a fleet: it loses a worker, a server and its broker one after the other, and no client notices.

`command` runs it from beginning to end, `losses` says what is killed when, and `result` shows what an independent check
found. The clients, the agents and that check are the tests' own.
"""
