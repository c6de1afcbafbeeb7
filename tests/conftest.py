"""Shapes and dtypes in signatures are checked while the tests run."""

from jaxtyping import install_import_hook

# before anything of the package is imported
install_import_hook("mixbct", "beartype.beartype")
