"""Out-of-fold predictions: the store that training writes, and the threshold tables that tuning reads."""
