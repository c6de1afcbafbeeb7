"""A model folder in another format, held against the model before it is kept."""
