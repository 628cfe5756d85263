"""The commands, one a verb."""
