"""What survives a kill: checkpoints, whose they are, and what an exception means."""
