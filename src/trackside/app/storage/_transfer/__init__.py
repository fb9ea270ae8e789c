"""The files of exports, and what these have cut off."""
