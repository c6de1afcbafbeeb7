"""The checksum of stored rows and edges."""

import zlib


def digest_of(one: str, two: str | None, three: str, content: bytes) -> int:
    """Return the checksum of a stored row; each length counts, so that no two rows run together."""
    names = f"{len(one)} {'-' if two is None else len(two)} {one}{two or ''}{three}"
    return zlib.crc32(content, zlib.crc32(names.encode("utf-8", "surrogatepass")))
