"""One network on one backend: passes over batches, epochs, updates."""
