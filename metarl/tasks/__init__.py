"""Task distributions; no module of this folder imports torch."""
