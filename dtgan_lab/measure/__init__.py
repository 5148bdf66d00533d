"""Judging what a trained model makes: a judge of its own, and the quality of synthetic defects."""

EXTRACTORS = ("domain", "squeezenet", "inception")  # here, since the command line names them
