"""Recompute the sizes and checksums in `registry.toml` from a folder that holds the files.

    python tests/pin.py FOLDER            # rewrite the `files` tables of every set
    python tests/pin.py FOLDER --check    # change nothing, exit 1 when a line would change

For maintainers, after editing the registry. To add a file, write its line with any size and a checksum of
zeros under `[<set>.files]` and run this; FOLDER is laid out by local paths
(`help/nasbench201/latency/fpga.pt`, ...). Everything but the numbers is kept as it stands. A file that FOLDER
lacks is an error: nothing is written then. Sets with a line `checksums` have theirs from where it says, and
are left as they stand.
"""

import argparse
import hashlib
import re
import sys
import tomllib
from pathlib import Path

from nbpkg.data.registry import REGISTRY
from nbpkg.data.values import digest
from nbpkg.errors import NbpkgError
from nbpkg.paths import write_text

_HEADER = re.compile(r"^\[(?P<name>[^\]]+)\]\s*$")
_LINE = re.compile(r'^"(?P<path>[^"]+)"\s*=\s*\{.*\}\s*$')


def pinned(text: str, folder: Path) -> str:
    """The registry's `text` with each file's size (bytes) and SHA-256 as found in `folder`.

    Raises NbpkgError naming the first file that `folder` lacks.
    """
    tables = tomllib.loads(text)
    prefix, lines = None, []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, _, table = header["name"].partition(".")
            prefix = tables[name]["local"] if table == "files" else None
        elif prefix is not None and (entry := _LINE.match(line)):
            if tables[name].get("checksums"):
                # Published numbers: a file that differs is a wrong file, not a reason to change them.
                lines.append(line)
                continue
            file = folder / (prefix + entry["path"])
            if not file.is_file():
                raise NbpkgError(f"{prefix + entry['path']}: not in the folder, so it cannot be pinned")
            content = file.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            old = tables[name]["files"][entry["path"]]
            values = old.get("values", "")
            if values and old["sha256"] != sha256:
                values = digest(file)
            more = f', values = "{values}"' if values else ""
            line = f'"{entry["path"]}" = {{ size = {len(content)}, sha256 = "{sha256}"{more} }}'
        lines.append(line)
    return "\n".join(lines) + "\n"


def pin(folder: Path, registry: Path = REGISTRY, write: bool = True) -> int:
    """Bring the registry up to the files in `folder`, or with `write` false only compare.

    Returns how many of its lines differ. Raises NbpkgError as `pinned` does; nothing is written then.
    """
    old = registry.read_text(encoding="utf-8")
    new = pinned(old, folder)
    if write and new != old:
        write_text(registry, new)
    return sum(a != b for a, b in zip(old.splitlines(), new.splitlines(), strict=True))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds the files under their local paths")
    parser.add_argument("--check", action="store_true", help="only tell whether the registry would change")
    given = parser.parse_args()
    try:
        changed = pin(given.folder, write=not given.check)
    except NbpkgError as error:
        parser.error(str(error))
    print(f"{changed} of the registry's lines {'differ' if given.check else 'updated'}")
    return int(given.check and changed > 0)


if __name__ == "__main__":
    sys.exit(main())
