"""Everything that talks to Kaggle: downloads, training kernels, submissions."""
