"""Judging what a trained model makes: a judge of its own, and the quality of synthetic defects."""
