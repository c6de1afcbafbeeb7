"""The public Python names, each as mkdocstrings finds it in the source."""

from mixbct import __all__ as names
from mixbct import __doc__ as purpose


def python_page() -> str:
    """Return the page of the public names, as Markdown."""
    import mixbct

    lines = ["# Python names\n", f"{(purpose or '').split(chr(10))[0]}\n"]
    lines += ["Everything here is imported from `mixbct` itself: `from mixbct import Gallery`.\n"]
    for name in (each for each in names if not each.startswith("_")):
        thing = getattr(mixbct, name)
        home = mixbct._HOME[name] if isinstance(thing, dict) else thing.__module__
        lines.append(f"::: {home}.{name}\n    options:\n      heading: {name}\n")
    return "\n".join(lines)
