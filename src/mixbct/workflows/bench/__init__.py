"""The bench: methods × scenarios × old models × seeds, cell by cell, and what comes of it."""
