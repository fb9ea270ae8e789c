"""An agent that checks expenses: a plain Pydantic AI agent that knows nothing of Trackside.

`agent` is what you hand to `trackside`, `policy` the company's rules, `offline` the models that stand in where there is no
key.
"""
