"""On-Policy SFT: to reason in fewer tokens, fine-tune on one's own answers that are right and short enough."""
