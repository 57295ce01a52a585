"""What a network costs on a machine: memory, seconds, hours."""
