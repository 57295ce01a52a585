"""Everything that leaves for Kaggle: package, rehearsal, and the check of what comes out."""
