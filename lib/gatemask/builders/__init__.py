"""A name in a YAML becomes an object: models, losses, metrics, optimizers, schedules. Imports Keras: import late."""
