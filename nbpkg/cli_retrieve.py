"""The command line of retrieval: `nbpkg retrieve FOLDER`, and `nbpkg retrieve-weights` for what it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def retrieve_folder(
    folder: Annotated[Path, typer.Argument(help="Images, one subfolder a class.")],
    top: Annotated[int, typer.Option(help="How many networks to show.")] = 10,
    max_params: Annotated[int | None, typer.Option(help="Parameters at most.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the first one's weights, safetensors.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Trained networks for a folder of images, by the space of chapter 05_tans; to be fine-tuned."""
    from nbpkg import retrieve, search
    from nbpkg.cli import say, table

    found = retrieve.retrieve(*search.read_folder(folder), max_params, top, device)
    header = ["rank", "predicted", "score", "parameters", "trained on", "architecture"]
    table(header, retrieve.lines(found))
    if save is not None:
        from safetensors.torch import save_file

        save_file(dict(found[0].network().state_dict()), str(save))
        say(f"wrote {save.name}")


def make_retrieval_weights(
    profile: Annotated[str, typer.Option(help="smoke, standard or paper.")] = "standard",
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to; default: where `nbpkg retrieve` reads.")] = None,
) -> None:
    """Write what `nbpkg retrieve` uses, trained by chapter 05_tans where it is not stored."""
    from nbpkg import paths, retrieve
    from nbpkg.cli import say
    from nbpkg.session import Session

    made = Session("00_foundations", profile, [seed]).artifact("05_tans", "retrieval")
    path = retrieve.write_weights(out or paths.embedded(retrieve.FILE), made)
    say(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
