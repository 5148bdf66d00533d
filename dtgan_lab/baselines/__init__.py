"""Baselines: what a practitioner tries before, or instead of, a defect transfer GAN."""
