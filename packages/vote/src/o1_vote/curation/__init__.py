"""Curating training data: hard negatives, duplicates, contamination, weights of members."""
