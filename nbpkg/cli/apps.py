"""Commands for a folder of images: search, retrieve; weights, retrieve-weights write what they use."""

from pathlib import Path
from typing import Annotated

import typer

from nbpkg.cli.out import Device, Profile, say, table
from nbpkg.errors import NbpkgError

Folder = Annotated[Path, typer.Argument(help="Images, one subfolder a class.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of what is drawn at random.")]
Top = Annotated[int, typer.Option(help="How many to show.")]
MaxParams = Annotated[int | None, typer.Option(help="Parameters at most.")]
Out = Annotated[Path | None, typer.Option(help="Where to; default: where the command reads.")]


def search_folder(
    folder: Folder,
    top: Top = 10,
    candidates: Annotated[int, typer.Option(help="How many cells to draw.")] = 500,
    seed: Seed = 0,
    max_params: MaxParams = None,
    max_flops: Annotated[int | None, typer.Option(help="FLOPs at most.")] = None,
    device: Device = "auto",
) -> None:
    """Cells of NAS-Bench-201 for a folder of images, best first, by the networks of chapter 02_metad2a."""
    from nbpkg.apps import images, search

    if min(top, candidates) < 1:
        raise NbpkgError("--top and --candidates must be at least 1")
    found = search.search(*images.read_folder(folder), candidates, seed, max_params, max_flops, device)
    table(["rank", "score", "parameters (M)", "FLOPs (M)", "architecture"], search.lines(found, top))


def make_weights(profile: Profile = "standard", seed: Seed = 0, out: Out = None) -> None:
    """Write the weights that `nbpkg search` uses, trained by chapter 02_metad2a where they are not stored."""
    from nbpkg.apps import search

    _write_weights(search, "02_metad2a", "search", profile, seed, out)


def retrieve_folder(
    folder: Folder,
    top: Top = 10,
    max_params: MaxParams = None,
    save: Annotated[Path | None, typer.Option(help="Write the first one's weights, safetensors.")] = None,
    device: Device = "auto",
) -> None:
    """Trained networks for a folder of images, by the space of chapter 05_tans; to be fine-tuned."""
    from nbpkg.apps import images, retrieve

    found = retrieve.retrieve(*images.read_folder(folder), max_params, top, device)
    table(["rank", "predicted", "score", "parameters", "trained on", "architecture"], retrieve.lines(found))
    if save is not None:
        from safetensors.torch import save_file

        save_file(dict(found[0].network().state_dict()), str(save))
        say(f"wrote {save.name}")


def make_retrieval_weights(profile: Profile = "standard", seed: Seed = 0, out: Out = None) -> None:
    """Write what `nbpkg retrieve` uses, trained by chapter 05_tans where it is not stored."""
    from nbpkg.apps import retrieve

    _write_weights(retrieve, "05_tans", "retrieval", profile, seed, out)


def _write_weights(app, chapter: str, name: str, profile: str, seed: int, out: Path | None) -> None:
    """Write a chapter's artefact in the form that the module `app` reads."""
    from nbpkg import paths
    from nbpkg.session import Session

    made = Session(chapter, profile, [seed]).artifact(chapter, name)
    path = app.write_weights(out or paths.embedded(app.FILE), made)
    say(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
