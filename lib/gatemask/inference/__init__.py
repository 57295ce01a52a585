"""Gate-first prediction of a test set, as it runs offline on Kaggle."""
