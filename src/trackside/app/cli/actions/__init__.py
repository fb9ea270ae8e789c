"""What those commands do that end by themselves: run, list, tell, cancel, remove, move, mend."""
