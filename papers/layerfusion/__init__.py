"""Multi-layer visual features: which layers of the eye, and where to put them."""
