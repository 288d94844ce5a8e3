"""Slots that are stepped; nothing here imports torch."""
