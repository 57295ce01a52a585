"""The only copy of the RLE codec, of the metric and of the decision rule."""
