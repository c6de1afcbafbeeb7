"""What the documentation site makes at build time, from the package and from the results."""
