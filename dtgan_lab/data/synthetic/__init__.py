"""The synthetic SDI: surfaces, defects, the data set."""
