"""What it takes here: the clock, the cases, and the processes that they are timed in."""
