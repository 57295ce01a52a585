"""From raw files to records: readers, labels, manifest, groups, folds, audit, records, phantoms."""
