"""The run's own folder first; W&B after it, and never in its way."""
