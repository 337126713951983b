"""StreamingThinker: units of thought while the input is still arriving, and the answer when it ends."""
