"""`./scripts/demo serve`: a server with the demo's agents and visitors, to look at in a browser."""
