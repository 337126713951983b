"""GPE: group position encoding for streaming language models."""
