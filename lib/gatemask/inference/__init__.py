"""Gate-first prediction as it runs offline in Kaggle's image; imports only what that image has."""
