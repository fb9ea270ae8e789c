"""The console in the browser: pages that show what the API answers to the same person, and act by asking it.

A page asks endpoints of the API (`server.page_api`), and turns the answers into HTML with a template. It reads no
store, so it can show nothing that its viewer could not get as JSON; each page names its twins. `/ui/live` says when
something has changed; the page then fetches itself anew and takes over what is different. The console may use the
server below it and nothing else of the app.
"""

from trackside.app.dashboard.console import GROUPS, browsing

__all__ = ["GROUPS", "browsing"]
