"""Decoders: from an encoder's features to those that the heads of a mask network turn into logits, one per module."""
