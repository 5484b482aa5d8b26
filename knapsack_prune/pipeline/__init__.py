"""`run`: plan, slim, fine-tune, evaluate and export from one file."""
