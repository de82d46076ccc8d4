"""Training: data taken in, epochs, callbacks, progress."""
