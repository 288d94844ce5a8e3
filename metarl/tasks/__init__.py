"""Where tasks come from; nothing here imports torch."""
