"""What a YAML may say, and what is said back where it is wrong."""

from gatemask.config.loading import load_competition, load_ensemble, load_experiment
from gatemask.config.schema import Competition, Ensemble, Experiment, Rle

__all__ = ["Competition", "Ensemble", "Experiment", "Rle", "load_competition", "load_ensemble", "load_experiment"]
