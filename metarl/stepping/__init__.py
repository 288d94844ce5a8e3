"""Stepping of environments in slots; no module of this folder imports torch."""
