"""Which members are shipped, and why."""
