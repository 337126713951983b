"""SkipGPT: per-token, per-module skipping of decoder layers (Zhao et al., ICML 2025)."""
