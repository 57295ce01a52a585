"""From records to batches: decoding, sampling, augmentation."""
