"""What the commands that end by themselves do: run, list, tell, cancel, remove, move, mend."""
