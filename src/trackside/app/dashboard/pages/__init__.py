"""The pages, one module each. Their functions ask the API; their templates show what it said."""
