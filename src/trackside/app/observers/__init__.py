"""Observers that turn events into something else; each a room of its own, on the harness and what lies below in the app."""
