"""VisiPruner: which layers look at the picture, through which tokens, and pruning by the answer, without training."""
