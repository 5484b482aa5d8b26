"""What keeping the units of a group is worth."""
