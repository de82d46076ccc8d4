"""What a network is made of: activations, losses, layers, initializers, parameters."""
