"""An agent that checks expenses: a plain Pydantic AI agent that knows nothing of Trackside.

`agent` is what you hand to `trackside`, `policy` holds the company's rules, and `offline` the models that stand in when
there is no key.
"""
