"""Decoupling KL and Trajectories: which prefixes a student learns on and in which direction KL is taken are two choices, not one."""
