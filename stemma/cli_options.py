"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from stemma.groups import GROUPS

ProfileName = Annotated[str, typer.Option("--profile", "-p", help="a profile's name, or the path of a .yaml")]
Overrides = Annotated[list[str], typer.Option("--set", help="path.to.field=value; may be repeated")]
Root = Annotated[
    Path, typer.Option("--root", envvar="STEMMA_ROOT", help="folder of runs, artifacts and downloads")
]
RunName = Annotated[str, typer.Argument(help="the run's name, such as nano")]
Name = Annotated[
    str, typer.Option("--name", help="the run's name and folder; by default the profile's, or a branch's own")
]
GroupName = Annotated[str, typer.Option("--group", help=f"make this stage group only: {', '.join(GROUPS)}")]
StartFrom = Annotated[
    str,
    typer.Option(
        "--start-from",
        help="branch another run: the first stage to make, or stage and step to go on from (stem@120); what "
        "comes before is taken as it is",
    ),
]
FromRun = Annotated[str, typer.Option("--from-run", help="the run to branch from; the profile's by default")]
StopAfter = Annotated[str, typer.Option(help="last stage to make")]
