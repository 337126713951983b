"""Nine papers, one folder each; none imports another."""
