"""Build what a YAML names: models, losses, metrics, optimizers, schedules. Most modules import Keras: import late."""
