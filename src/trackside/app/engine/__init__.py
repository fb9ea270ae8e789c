"""Runs on other processes than the one that was asked: what moves work, cancels and live output between them.

The database has the truth: who may run what, until when, and how it ended. An engine only says that there is something
to look at, so that nobody has to look for nothing. Whatever it loses costs time, but no run.
"""

from trackside.app.engine.ports import Engine, EngineStats, EngineStatus, Offer, Offers

__all__ = ["Engine", "EngineStats", "EngineStatus", "Offer", "Offers"]
