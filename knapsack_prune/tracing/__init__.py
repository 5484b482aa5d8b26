"""From an exported graph to groups: which unit each element of each tensor belongs to."""
