"""Kit of the vision papers."""
