"""Fine-tuning: the loop, its schedule, checkpoints, masks and records."""
