"""Keep each run on disk, and mirror it to W&B."""
