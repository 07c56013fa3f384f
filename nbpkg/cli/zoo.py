"""The command line of the zoos: `nbpkg zoo list | build`."""

from pathlib import Path
from typing import Annotated

import typer

from nbpkg.cli.out import Device, Profile, place, say, table, wrote
from nbpkg.errors import NbpkgError

zoo_app = typer.Typer(help="List and build the zoos of small trained networks.", no_args_is_help=True)


@zoo_app.command("list")
def zoo_list() -> None:
    """List the zoos: what they hold, how large they are, and where they are."""
    from nbpkg import machine
    from nbpkg.zoo import loader, recipes

    rows, device = [], machine.device("auto")
    for zoo in recipes.ZOOS.values():
        for profile in ("smoke", "standard"):
            try:
                state = loader.state(zoo.name, profile, device)
            except NbpkgError as error:
                state = [f"needs data: {str(error).split(';')[0]}", "", ""]
            rows.append([zoo.name, profile, *state, zoo.what])
    table(["zoo", "profile", "networks", "tasks", "there", "what"], rows)


@zoo_app.command("build")
def zoo_build(
    name: Annotated[str, typer.Argument(help="A zoo; see `nbpkg zoo list`.")],
    profile: Profile = "smoke",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: cores, on a GPU 1.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Dask: local, slurm, or a scheduler's address.")] = None,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the table of results to this file too.")] = None,
) -> None:
    """Train what the cache lacks of a zoo; interrupted, it goes on where it stopped."""
    from nbpkg import machine, parallel
    from nbpkg.zoo import loader

    place(out)
    parallel.check_cluster(cluster)
    if cluster is None or device != "cuda":  # a cluster's machines may have what this one lacks
        device = machine.device(device).type
    cores = len(machine.usable_cpus())
    trained, path = loader.build(name, profile, device, workers or cores, cluster, out)
    written = [] if path is None else [path, *[path.with_suffix(".json")] * (name == "digits")]
    if name == "students" and path is not None:
        from nbpkg.zoo import bank

        written.append(bank.beside(path))
        bank.write(written[-1], trained, bank.tell(trained, device))
    say(
        f"{len(trained.jobs)} networks, {trained.cpu_seconds.sum():.0f} CPU seconds of training, "
        f"mean test accuracy {trained.test.mean():.1f} %"
    )
    wrote(*written)
