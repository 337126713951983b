"""Corpora that need no hub: packaged text, controlled generators, and the way to token windows."""
