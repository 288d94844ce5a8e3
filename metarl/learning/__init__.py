"""Pieces that algorithms are made of: pure functions and small modules."""
