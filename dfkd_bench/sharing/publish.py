"""A results folder as a pull request on the Hugging Face Hub. Imports no torch before datasets are looked up."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from dfkd_bench.errors import DfkdError
from dfkd_bench.results.curves import CURVE_FILE
from dfkd_bench.results.records import Record
from dfkd_bench.results.scan import RECORD_FILE
from dfkd_bench.sharing.folders import TABLE_FILE, careful_record, run_folders
from dfkd_bench.sharing.hub_results import HubDataset, eval_results
from dfkd_bench.sharing.table_file import table_text

if TYPE_CHECKING:
    from dfkd_bench.leaderboard.build import Known

__all__ = ["Package", "RepoType", "hub_datasets", "open_pull_request", "packed"]

RepoType = Literal["dataset", "model", "space"]
_HUB = "https://huggingface.co"
_PLURAL: dict[RepoType, str] = {"dataset": "datasets/", "model": "", "space": "spaces/"}
_EVAL_RESULTS = ".eval_results"


@dataclass(frozen=True)
class Package:
    """What goes to the hub.

    Attributes:
        folder: the files, as they will be in the repository.
        files: their paths in the repository, sorted.
        runs: how many runs are in it.
        without_entry: datasets whose rows have no evaluation result, since they are not on the hub.
        local_paths: datasets named by a path of this machine, which the records would make public.
    """

    folder: Path
    files: tuple[str, ...]
    runs: int
    without_entry: tuple[str, ...]
    local_paths: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum((self.folder / name).stat().st_size for name in self.files)


@contextmanager
def packed(
    results: Path,
    repo_id: str,
    repo_type: RepoType,
    *,
    task_id: str = "default",
    path_in_repo: str = "results",
    datasets: Mapping[str, HubDataset],
    known: Known | None = None,
) -> Iterator[Package]:
    """What would be published of a results folder, copied into a temporary folder: records, curves, pictures, table.

    Tracebacks, checkpoints and trackers' files stay at home.

    Args:
        results: the folder; verify it first.
        repo_id: the repository, `OWNER/NAME`.
        repo_type: what kind of repository it is.
        task_id: the task of the evaluation results.
        path_in_repo: the records' folder there.
        datasets: those that the hub has, by our names.
        known: what is installed, for the table.

    Raises:
        DfkdError: there is nothing to publish, or a folder cannot be read or written.
    """
    inside = PurePosixPath(path_in_repo)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise DfkdError(f"--path-in-repo {path_in_repo} is no folder of the repository: write it as results/mine")
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-publish-") as name:
        folder = Path(name)
        target = folder.joinpath(*inside.parts)
        try:
            records = [_copy(run, target) for run in run_folders(results)]
            if not records:
                raise DfkdError(f"there are no records in {results}: nothing to publish")
            (target / TABLE_FILE).write_text(table_text(target, known), encoding="utf-8", newline="")
            entries = eval_results(records, datasets, task_id, f"{_HUB}/{_PLURAL[repo_type]}{repo_id}")
            for file, text in entries.items():
                (folder / _EVAL_RESULTS).mkdir(exist_ok=True)
                (folder / _EVAL_RESULTS / file).write_text(text, encoding="utf-8")
        except OSError as error:
            raise DfkdError(f"cannot copy {results} for publishing ({error.strerror})") from error
        used = {record.spec.dataset for record in records}
        yield Package(
            folder,
            tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())),
            len(records),
            tuple(sorted(used - datasets.keys())),
            tuple(sorted(name for name in used if ":" in name)),
        )


def _copy(folder: Path, target: Path) -> Record:
    """Copy a run; its record."""
    record = careful_record(folder / RECORD_FILE)
    (target / record.run).mkdir(parents=True)
    for name in (RECORD_FILE, CURVE_FILE, record.images):
        if name is not None and (folder / name).is_file():
            shutil.copyfile(folder / name, target / record.run / name)
    return record


def hub_datasets() -> dict[str, HubDataset]:
    """The built-in datasets that the hub has, by our names."""
    from dfkd_bench.datasets.hub import SPECS  # imports torch

    return {name: HubDataset(spec.repo, spec.revision) for name, spec in SPECS.items()}


def open_pull_request(
    package: Package, repo_id: str, repo_type: RepoType, api: Any = None, confirm: Callable[[str], bool] | None = None
) -> str | None:
    """Upload a package as a pull request; its address, None if the user did not confirm.

    Args:
        package: what to upload.
        repo_id: the repository.
        repo_type: what kind it is.
        api: a `huggingface_hub.HfApi`; by default a new one with the user's own login.
        confirm: asked with the user's name on the hub before anything is sent.

    Raises:
        DfkdError: nobody is logged in, the repository is not there, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi() if api is None else api
    kind = f"{repo_type} repository {repo_id}"
    with _one_sentence(kind):
        user = api.whoami()["name"]
    if confirm is not None and not confirm(user):
        return None
    with _one_sentence(kind):
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            folder_path=package.folder,
            create_pr=True,
            commit_message=f"dfkd-bench: {package.runs} runs",
            commit_description="Records, curves, pictures and leaderboard.csv, which `dfkd-bench verify` accepts.",
        )
    url: str | None = commit.pr_url
    if url is None:
        raise DfkdError(f"the hub took the files for the {kind} and named no pull request: look there for it")
    return url


@contextmanager
def _one_sentence(kind: str) -> Iterator[None]:
    from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise DfkdError("nobody is logged in to the Hugging Face Hub: run hf auth login, or set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise DfkdError(f"the hub has no {kind} that you may see: make it there first, or fix --repo-id") from error
    # What the network can raise depends on huggingface_hub's version and the HTTP library below it.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DfkdError(
            f"the pull request on the {kind} failed ({type(error).__name__}: {reason}): look there before you try again"
        ) from error
