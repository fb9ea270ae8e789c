"""Torture: a whole system under mixed load is broken in every way, and afterwards judged by an independent checker.

`./scripts/torture` runs it. It starts real processes, uses them as clients do, and hurts them. The checker is that of
the crash tests, `tests/servers/fleet_check`, which imports nothing of the product.

    command     reads the command line
    ordeal      one system: load, faults one after the other, rest, judgement
    systems     what is tortured: a server on SQLite, two on PostgreSQL, a fleet
    faults      what is done to it, each a class with `inject` and `heal`
    people      who uses it: clients of HTTP, users of the library, a receiver of webhooks, crons
    watch       looks at it meanwhile: cursors, sizes
    judgement   what came of it, and what is wrong
    report      on the screen, and as JSON
    soak        the same without faults, for long, and whether anything grows
"""
