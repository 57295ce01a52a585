"""The RLE codec, the metrics and the decision rule: the only copy of each."""
