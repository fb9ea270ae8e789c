"""Other people's code, as it is called: what it takes, for how long it may, and what it fails with."""
