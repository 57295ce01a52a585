"""The decision rule, tuned on out-of-fold predictions and scored by cross-fitting."""
