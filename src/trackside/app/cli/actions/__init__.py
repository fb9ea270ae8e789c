"""What the commands do that come to an end by themselves: run, list, tell, cancel, remove, move, mend."""
