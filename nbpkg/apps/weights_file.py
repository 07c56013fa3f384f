"""Small files of trained weights that come with the package: half-precision tensors and a few plain values.

One safetensors file holds the tensors and, in its metadata, a JSON object with the plain values, the number
of the format, and what made them: chapter, profile, seeds and commit. What the tensors mean is up to who
writes and reads them: `nbpkg.apps.search`, `nbpkg.apps.retrieve`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nbpkg.errors import NbpkgError
from nbpkg.paths import git, intact, replacing


def write(
    path: str | Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], form: int, **made: Any
) -> Path:  # fmt: skip
    """Write tensors in half precision and plain values; whole or not at all. Returns the path.

    made: chapter, profile and seeds that made them; the commit is added.
    """
    made["commit"] = (git("rev-parse", "HEAD") or "").strip()
    from safetensors.torch import save

    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(halves, {"nbpkg": json.dumps({"format": form, "made": made, **plain})}))
    return Path(path)


def read(path: Path, form: int, what: str, built: Callable[[dict[str, Any], dict[str, Tensor]], Any]) -> Any:
    """built(plain values, float32 tensors) of a file that `write` made, with "made": by what.

    Raises NbpkgError that names the file when it is absent, of another format, damaged, or not what `built`
    expects; what: says in the message what the file should have been.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(intact(path), "pt") as file:
            said = json.loads(file.metadata()["nbpkg"])
            if said.pop("format") != form:
                raise ValueError("it is of another format")
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        made = said.pop("made", {})
        return built(said, tensors) | {"made": made}
    except FileNotFoundError:
        raise NbpkgError(f"{path}: there are no such weights") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise NbpkgError(f"{path.name}: no weights of a {what} ({error})") from None


def words(weights: Mapping[str, Any]) -> str:
    """One line on where weights come from."""
    return f"weights: {', '.join(f'{k} {v}' for k, v in weights['made'].items()) or 'of unknown origin'}"
