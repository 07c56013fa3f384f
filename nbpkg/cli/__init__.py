"""The command line. A command imports what it needs inside itself, so that help is there at once."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import nbpkg
from nbpkg.cli import apps, chapters
from nbpkg.cli.data import data_app
from nbpkg.cli.out import plain, say
from nbpkg.cli.zoo import zoo_app
from nbpkg.errors import NbpkgError

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
#: For whom each command is; help shows them so.
PANELS = {
    "For readers": {"search": apps.search_folder, "retrieve": apps.retrieve_folder},
    "For those who run chapters": {"list": chapters.list_chapters, "run": chapters.run},
    "For teachers": {"handout": chapters.write_handouts},
    "For maintainers": {
        "sync": chapters.sync, "check": chapters.check, "publish": chapters.publish,
        "scoreboard": chapters.scoreboard, "site": chapters.site, "stamp": chapters.stamp,
        "weights": apps.make_weights, "retrieve-weights": apps.make_retrieval_weights,
    },
}  # fmt: skip
for panel, name, command in ((p, n, c) for p, names in PANELS.items() for n, c in names.items()):
    app.command(name, rich_help_panel=panel)(command)
app.add_typer(data_app, name="data", rich_help_panel="For those who run chapters")
app.add_typer(zoo_app, name="zoo", rich_help_panel="For those who run chapters")


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Runs, checks and publishes the chapters of Transferable AutoML, Reproduced."""
    if version:
        say(f"nbpkg {nbpkg.__version__}")
        raise typer.Exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: 0, 1 after a finding or a failure, 2 for a wrong use, 130 when stopped."""
    try:
        command = typer.main.get_command(app)
        result = command.main(
            args=list(arguments) if arguments is not None else None, prog_name="nbpkg", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except NbpkgError as error:
        message = str(error)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except typer.Exit as left:
        return left.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; without this the interpreter complains once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written, too many open files
        where = f"{error.filename}: " if error.filename is not None else ""
        print("error: " + plain(f"{where}{error.strerror or error}"), file=sys.stderr)
        return 1
    except Exception as error:
        # Wrong use: typer's errors carry their text, in older and newer versions under different classes.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 2
        message = error.format_message()
    print("error: " + plain(" ".join(message.split())), file=sys.stderr)
    return 2
