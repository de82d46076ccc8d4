"""Tables: files in, features and targets, and a model with its preprocessing."""
