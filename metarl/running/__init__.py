"""Runs: settings, training, evaluation, command line."""
