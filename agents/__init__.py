"""Meta-learning algorithms, one in each file."""
