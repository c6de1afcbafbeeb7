"""Whether code that a model folder names may run: no, unless the person says so.

A backbone of one's own (`package.module:factory`) is named in a recipe or on a command line, which
are a person's word; a model folder may have come from anybody.
"""

from contextvars import ContextVar

TRUSTED = ContextVar("TRUSTED", default=False)
"""Set by `--trust-code`, for every model that a command loads."""
