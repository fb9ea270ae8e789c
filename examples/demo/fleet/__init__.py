"""The demo of a fleet: it loses a worker, a server and its broker one after the other, and no client notices.

`command` has it from beginning to end, `losses` says what is killed when, `result` shows what an independent check has
found. The clients, the agents and that check are those of the tests.
"""
