"""Which members are shipped, and checks of their precision."""
