"""What Kaggle's image and machines offer: packages, wheels that are missing, a sandbox that stands in for it."""
