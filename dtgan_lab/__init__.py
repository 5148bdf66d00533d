"""What the notebooks and the command line stand on; the core needs none of it."""
