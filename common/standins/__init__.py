"""Small models, really trained, that stand in for weights of a hub."""
