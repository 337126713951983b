"""Thin wrappers over the field's scorers; each result says exactly what was asked and of what."""
