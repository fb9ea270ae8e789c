"""The console in the browser: pages that show what the API answers to the same person, and act by asking it.

A page asks endpoints of the API (`server.page_api`), and makes HTML of the answers with a template. It reads no
store, so it can show nothing that who looks at it could not get as JSON; each page names its twins. What goes on is said
by `/ui/live`: that something has changed, and the page fetches itself anew and takes over what is different. It may use the
server below it and nothing else of the app.
"""

from trackside.app.dashboard.console import GROUPS, browsing

__all__ = ["GROUPS", "browsing"]
