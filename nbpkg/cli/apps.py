"""Commands for a folder of images: search, retrieve; weights, retrieve-weights write what they use."""

from pathlib import Path
from typing import Annotated

import typer

from nbpkg.cli.out import Adopt, Device, Profile, output, place, say, table, wrote
from nbpkg.errors import NbpkgError

Folder = Annotated[Path, typer.Argument(help="Images, one subfolder a class.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of what is drawn at random.")]
Top = Annotated[int, typer.Option(help="How many to show.")]
MaxParams = Annotated[int | None, typer.Option(help="Parameters at most.")]
Weights = Annotated[Path | None, typer.Option(help="A file of weights; by default the shipped one.")]
Out = Annotated[Path | None, typer.Option(help="The file to write; by default one in the cache.")]


def search_folder(
    folder: Folder,
    top: Top = 10,
    candidates: Annotated[int, typer.Option(help="How many cells to draw.")] = 500,
    seed: Seed = 0,
    max_params: MaxParams = None,
    max_flops: Annotated[int | None, typer.Option(help="FLOPs at most.")] = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Rank cells of NAS-Bench-201 for a folder of images, by the networks of chapter 02_metad2a."""
    from nbpkg.apps import images, search, weights_file

    if min(top, candidates) < 1:
        raise NbpkgError("--top and --candidates must be at least 1")
    made = search.read_weights(weights)
    say(weights_file.words(made))
    found = search.search(*images.read_folder(folder), candidates, seed, max_params, max_flops, device, made)
    table(["rank", "score", "parameters (M)", "FLOPs (M)", "architecture"], search.lines(found, top))


def make_weights(
    profile: Profile = "standard", seed: Seed = 0, out: Out = None, adopt: Adopt = False
) -> None:  # fmt: skip
    """Write the weights that `nbpkg search` uses, trained by chapter 02_metad2a where they are not stored."""
    from nbpkg.apps import search

    _write_weights(search, "02_metad2a", "search", profile, seed, out, adopt)


def retrieve_folder(
    folder: Folder,
    top: Top = 10,
    max_params: MaxParams = None,
    save: Annotated[Path | None, typer.Option(help="Write the first one's weights, safetensors.")] = None,
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Find trained networks for a folder of images, to be fine-tuned, by the space of chapter 05_tans."""
    from nbpkg import paths
    from nbpkg.apps import images, retrieve, weights_file

    place(save)
    made = retrieve.read_weights(weights)
    say(weights_file.words(made))
    found = retrieve.retrieve(*images.read_folder(folder), max_params, top, device, made)
    table(["rank", "predicted", "score", "parameters", "trained on", "architecture"], retrieve.lines(found))
    if save is not None:
        from safetensors.torch import save_file

        with paths.replacing(save) as temporary:
            save_file(dict(found[0].network().state_dict()), str(temporary))
        wrote(save)


def make_retrieval_weights(
    profile: Profile = "standard", seed: Seed = 0, out: Out = None, adopt: Adopt = False
) -> None:  # fmt: skip
    """Write what `nbpkg retrieve` uses, trained by chapter 05_tans where it is not stored."""
    from nbpkg.apps import retrieve

    _write_weights(retrieve, "05_tans", "retrieval", profile, seed, out, adopt)


def _write_weights(app, chapter: str, name: str, profile: str, seed: int, out: Path | None, adopt: bool):
    """Write a chapter's artefact in the form that the module `app` reads."""
    from nbpkg import paths
    from nbpkg.session import Session

    path = output(paths.embedded(app.FILE), out, adopt)
    made = Session(chapter, profile, [seed]).artifact(chapter, name)
    app.write_weights(path, made, chapter=chapter, profile=profile, seeds=[seed])
    wrote(path)
