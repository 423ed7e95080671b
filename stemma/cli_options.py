"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ProfileName = Annotated[str, typer.Option("--profile", "-p", help="a profile's name, or the path of a .yaml")]
Overrides = Annotated[list[str], typer.Option("--set", help="path.to.field=value; may be repeated")]
Root = Annotated[
    Path, typer.Option("--root", envvar="STEMMA_ROOT", help="folder of runs, artifacts and downloads")
]
RunName = Annotated[str, typer.Argument(help="the run's name, such as nano")]
StopAfter = Annotated[str, typer.Option(help="last stage to make")]
