"""Notifies people of what happens to runs: by mail, chat or phone, through Apprise.

Messages are sent in threads, as Apprise blocks. It is imported when an observer is made, which takes half a second.
"""

from trackside.app.observers.notify._observer import NotifyObserver

__all__ = ["NotifyObserver"]
