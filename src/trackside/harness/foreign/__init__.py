"""Other people's code, as it is called: what it takes, for how long it may, what it fails with, what its objects hold."""
