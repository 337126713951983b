"""A paper's run: jobs, what they depend on, and what becomes of their results."""
