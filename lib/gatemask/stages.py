"""The stages of the loop, in order: the one table that the loop, the command line and docs/files.md read."""
