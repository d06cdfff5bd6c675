"""`dfkd-bench publish`: a results folder as a pull request on the Hugging Face Hub."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import examples
from dfkd_bench.cli.verify import Folder, Option, chosen, show

if TYPE_CHECKING:
    from dfkd_bench.sharing.publish import Package, RepoType

EXAMPLES = examples(
    "dfkd-bench publish results --repo-id me/dfkd-records --dry-run",
    "dfkd-bench publish results --repo-id me/wrn16_1-student --repo-type model --task-id cifar10",
)


class RepoTypeChoice(StrEnum):
    """What a repository of the hub holds."""

    dataset = "dataset"
    model = "model"
    space = "space"


def publish(
    repo_id: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository on the hub; it must be there.")],
    folder: Folder = None,
    results: Option = None,
    repo_type: Annotated[
        RepoTypeChoice, typer.Option(help="The hub shows evaluation results in model repositories only.")
    ] = RepoTypeChoice.dataset,
    task_id: Annotated[
        str, typer.Option(help="Task of the evaluation results, as the dataset's eval.yaml on the hub names it.")
    ] = "default",
    path_in_repo: Annotated[str, typer.Option(help="The records' folder in the repository.")] = "results",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and exit.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Open a pull request with the records of a results folder, after `verify`. Nothing else ever sends anything."""
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.sharing.verify import verify

    where = chosen(folder, results)
    known = Installed(default_registry())
    verdict = verify(where, known=known)
    show(verdict)
    if verdict.findings:
        say("nothing was published: mend the folder, or publish another one")
        raise typer.Exit(1)
    if not (dry_run or yes or sys.stdin.isatty()):
        raise DfkdError("publish asks before it sends, and nobody can answer here: look with --dry-run, then add --yes")
    from dfkd_bench.sharing.publish import hub_datasets, open_pull_request, packed

    kind: RepoType = repo_type.value
    asked = {"task_id": task_id, "path_in_repo": path_in_repo}
    with packed(where, repo_id, kind, **asked, datasets=hub_datasets(), known=known) as package:
        _announce(package, repo_id, kind)
        if dry_run:
            return

        def confirm(user: str) -> bool:
            return yes or typer.confirm(f"Open the pull request as {user}?")

        url = open_pull_request(package, repo_id, kind, confirm=confirm)
    say("nothing was sent" if url is None else f"pull request: {url}")


def _announce(package: Package, repo_id: str, repo_type: str) -> None:
    lines = [f"  {name}" for name in package.files]
    for line in lines:
        say(line)
    size = f"{len(package.files)} files, {package.size / 2**20:.1f} MiB, {package.runs} runs"
    say(f"{size} for the {repo_type} repository {repo_id}")
    if package.without_entry:
        names = ", ".join(package.without_entry)
        say(f"no evaluation results for {names}: an entry must name a dataset of the hub")
    for name in package.local_paths:
        say(f"the records name {name}, a path of this machine: everybody will see it")
