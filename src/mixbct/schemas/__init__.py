"""What is written to disk as JSON, one file a subject."""
