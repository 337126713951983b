"""Kit of the reasoning papers."""
