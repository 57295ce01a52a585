"""Which folds are shipped, and how their predictions become a submission."""
