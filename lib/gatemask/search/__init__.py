"""`gatemask search`: which settings of an experiment deserve all its folds."""
