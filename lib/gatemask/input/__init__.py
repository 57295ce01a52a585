"""Turn records into batches: decoding, sampling, augmentation."""
