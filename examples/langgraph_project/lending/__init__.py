"""A lending library with an assistant at its desk."""
