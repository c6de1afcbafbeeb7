"""The documentation: pages, and beneath `generate` what is made of the package."""
