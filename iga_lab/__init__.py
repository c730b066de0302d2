"""What a person runs: the command `iga`, and the rooms behind it."""
