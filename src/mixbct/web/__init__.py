"""A gallery over HTTP: requests to service calls, answers as JSON or as parts of one page."""
