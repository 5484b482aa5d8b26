"""Everything that a user can set, each once."""
