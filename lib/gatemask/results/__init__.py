"""What stages hand to each other: one module per producer, imported by producer and consumers alike."""
