"""Train one experiment, fold by fold."""
