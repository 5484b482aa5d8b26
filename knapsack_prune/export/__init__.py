"""Networks as files for other programs, and how fast they run."""
