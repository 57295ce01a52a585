"""Find the rule on out-of-fold predictions, and say honestly what it is worth."""
