"""Does synthetic data help a classifier? Arms, training, comparison."""
