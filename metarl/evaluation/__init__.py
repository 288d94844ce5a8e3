"""Adaptation curves: measured, summed up, drawn."""
