"""Observers that turn run events into something else; each a module of its own that imports the harness alone."""
