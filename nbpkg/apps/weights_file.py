"""Small files of trained weights that come with the package: half-precision tensors and a few plain values.

One safetensors file holds the tensors and, in its metadata, a JSON object with the plain values and the
number of the format. What the tensors mean is up to who writes and reads them: `nbpkg.apps.search`,
`nbpkg.apps.retrieve`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nbpkg.errors import NbpkgError
from nbpkg.paths import replacing


def write(path: str | Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], form: int) -> Path:
    """Write tensors in half precision and plain values; whole or not at all. Returns the path."""
    from safetensors.torch import save

    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(halves, {"nbpkg": json.dumps({"format": form, **plain})}))
    return Path(path)


def read(path: Path, form: int, what: str, built: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> Any:
    """built(plain values, float32 tensors) of a file that `write` made.

    Raises NbpkgError that names the file when it is absent, of another format, damaged, or not what `built`
    expects; what: says in the message what the file should have been.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["nbpkg"])
            if said.pop("format") != form:
                raise ValueError("it is of another format")
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        return built(said, tensors)
    except FileNotFoundError:
        raise NbpkgError(f"{path}: there are no such weights") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise NbpkgError(f"{path.name}: no weights of a {what} ({error})") from None
