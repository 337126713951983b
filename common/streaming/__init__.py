"""Kit of the streaming papers: two caches, two streams of one model, words and units, live input, audio."""
