"""The demo of observers: the demo's runs, with receivers of each kind beside them, and what each receiver got.

`command` puts it together. A stand is one receiver: it says which settings lead to it, shows what came, and compares
that with the `record`, which is what the log has. The receivers themselves are the tests' own, in `tests/servers`.
"""
