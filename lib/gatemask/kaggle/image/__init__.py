"""What Kaggle's image and machines offer: machines and their limits, wheels that the images lack, a sandbox."""
