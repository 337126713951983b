"""ProactiveLLM: a model that knows when it has read enough."""
