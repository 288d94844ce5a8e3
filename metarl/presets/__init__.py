"""Settings by name, one module for each family of environments, each with its source."""
