"""Training: data as optimiser steps, whole checkpoints, the command line."""
