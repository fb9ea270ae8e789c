"""`./scripts/demo serve`: a server with the demo's agents and visitors, to be looked at in a browser."""
