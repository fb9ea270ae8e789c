"""The demo of observers: the demo's runs, with receivers of each kind beside them, and what each of them got.

`command` puts it together. A stand is one receiver: it says what of the settings leads to it, shows what came, and compares
that with the `record`, which is what the log has. The receivers themselves are those of the tests, in `tests/servers`.
"""
