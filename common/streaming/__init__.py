"""Kit of the streaming papers."""
