"""Reading and writing: JSON for frozen dataclasses of any kind, and text files. Knows no particular type."""
