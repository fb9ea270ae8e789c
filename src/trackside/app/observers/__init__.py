"""Observers that turn events into something else; each stands alone, on the harness and the layers below in the app."""
