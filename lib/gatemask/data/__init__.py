"""From raw files to batches: readers, labels, manifest, folds, records, pipeline, augmentation, phantoms."""
