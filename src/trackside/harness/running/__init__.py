"""What a run is made of while its agent runs: what it announces, how it is stopped, what its end is."""
