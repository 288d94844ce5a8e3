"""Measure adaptation curves, summarize them and draw them."""
