"""The one loop that gathers experience, and what agents are to it."""
