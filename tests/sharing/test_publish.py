"""Publishing, against a stand-in of the hub's API. Nothing here reaches a network."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from unittest import mock

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from support.e2e_kit import cli, make_record, make_spec
from support.sharing_kit import KNOWN, first_run, percent, remade_table, write_run

from dfkd_bench.results.records import Results
from dfkd_bench.sharing.hub_results import HubDataset, eval_results
from dfkd_bench.sharing.verify import verify

UPLOAD_FOLDER = inspect.signature(huggingface_hub.HfApi.upload_folder)
REPO = ("--repo-id", "me/records")
URL = "https://huggingface.co/datasets/me/records/discussions/1"


class StandIn:
    """What `publish` uses of `huggingface_hub.HfApi`, with the signature of the installed version."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.uploads, self.files = error, [], {}

    def whoami(self):
        if isinstance(self.error, LocalTokenNotFoundError):
            raise self.error
        return {"name": "me"}

    def upload_folder(self, **asked):
        UPLOAD_FOLDER.bind(self, **asked)  # no other arguments than it has
        if self.error is not None:
            raise self.error
        self.uploads.append(asked)
        folder = asked["folder_path"]
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        verified = verify(folder / "results", known=KNOWN)
        assert verified.findings == []
        return SimpleNamespace(pr_url=URL)


@pytest.fixture
def hub(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stand_in)
    return stand_in


def test_a_pull_request_with_the_records_is_opened(whole, hub):
    (first_run(whole) / "traceback.txt").write_text("/home/me/secret.py", encoding="utf-8")
    (first_run(whole) / "checkpoint.pt").write_bytes(b"large")
    done = cli("publish", whole, *REPO, "--yes")
    assert done.code == 0, done
    assert done.out.splitlines()[-1] == f"pull request: {URL}"
    (asked,) = hub.uploads
    assert (asked["repo_id"], asked["repo_type"], asked["create_pr"]) == ("me/records", "dataset", True)
    names = ("record.json", "curve.csv", "images.png")
    runs = [folder.name for folder in whole.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    assert len(runs) == 6
    assert sorted(hub.files) == sorted(
        ["results/leaderboard.csv", *(f"results/{run}/{name}" for run in runs for name in names)]
    )
    assert hub.files["results/leaderboard.csv"] == (whole / "leaderboard.csv").read_bytes()
    assert "no evaluation results for digits" in done.out


def test_a_dry_run_lists_and_sends_nothing_and_needs_no_login(whole, hub):
    hub.error = LocalTokenNotFoundError("no token")
    done = cli("publish", "--results", whole, *REPO, "--dry-run")
    assert done.code == 0, done
    assert f"  results/{make_spec().hash}/record.json\n" in done.out
    assert "6 runs for the dataset repository me/records" in done.out
    assert hub.uploads == []


def test_what_does_not_verify_is_not_published(whole, hub):
    (first_run(whole) / "images.png").write_bytes(b"swapped")
    done = cli("publish", whole, *REPO, "--yes")
    assert done.code == 1
    assert "nothing was published" in done.out
    assert hub.uploads == []


def test_nobody_who_could_answer_is_one_sentence(whole, hub):
    with mock.patch("sys.stdin.isatty", return_value=False):
        assert "nobody can answer here" in cli("publish", whole, *REPO).sentence()
    assert hub.uploads == []


@pytest.mark.parametrize(("answer", "sent"), [(True, 1), (False, 0)])
def test_the_user_is_asked(whole, hub, answer, sent):
    with (
        mock.patch("sys.stdin.isatty", return_value=True),
        mock.patch("typer.confirm", return_value=answer) as asked,
    ):
        done = cli("publish", whole, *REPO)
    assert done.code == 0
    asked.assert_called_once_with("Open the pull request as me?")
    assert len(hub.uploads) == sent
    assert ("nothing was sent" in done.out) == (not answer)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            LocalTokenNotFoundError("x"),
            "nobody is logged in to the Hugging Face Hub: run hf auth login, or set HF_TOKEN",
        ),
        (
            ConnectionError("no route"),
            "the pull request on the dataset repository me/records failed (ConnectionError: no route): look",
        ),
        (ValueError("Repo id must\nuse"), "failed (ValueError: Repo id must use): look there before you try again"),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(whole, hub, error, sentence):
    hub.error = error
    with mock.patch("sys.stdin.isatty", return_value=True):
        done = cli("publish", whole, *REPO, "--yes")
    assert sentence in done.err
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_a_repository_that_is_not_there_is_one_sentence(whole, hub):
    class MissingError(RepositoryNotFoundError):
        def __init__(self) -> None:  # without the response of a real request
            Exception.__init__(self, "404")

    hub.error = MissingError()
    done = cli("publish", whole, *REPO, "--yes")
    assert "the hub has no dataset repository me/records that you may see" in done.err
    assert done.code == 2


def test_a_path_out_of_the_repository_is_refused(whole, hub):
    for path in ("/tmp", "../x", ""):
        assert "is no folder of the repository" in cli("publish", whole, *REPO, "--yes", "--path-in-repo", path).err
    assert hub.uploads == []


def test_rows_of_the_hubs_datasets_become_evaluation_results(tmp_path, hub):
    for seed, hits in enumerate((300, 310)):
        write_run(tmp_path / "r", seed, hits, spec={"dataset": "cifar10"})
    Results(tmp_path / "r").write(make_record(make_spec(seed=5, dataset="cifar10"), accuracy=None))
    write_run(tmp_path / "r", 0)
    remade_table(tmp_path / "r")
    more = ("--repo-type", "model", "--task-id", "image_classification", "--path-in-repo", "runs/mine")
    hub.upload_folder = lambda **asked: (
        hub.files.update({p.name: p.read_text() for p in asked["folder_path"].rglob("*.yaml")}),
        SimpleNamespace(pr_url=URL),
    )[1]
    assert cli("publish", tmp_path / "r", *REPO, *more, "--yes").code == 0
    ((name, text),) = hub.files.items()
    settings = make_spec(dataset="cifar10").settings
    assert name == f"dfkd-bench_cifar10_noise_{settings}_aaaaaaaa.yaml"
    (entry,) = yaml.safe_load(text)
    assert entry == {
        "dataset": {
            "id": "uoft-cs/cifar10",
            "task_id": "image_classification",
            "revision": "0b2714987fa478483af9968de7c934580d0bb9a2",
        },
        "value": round((percent(300) + percent(310)) / 2, 4),
        "date": "2026-01-02",
        "source": {"url": "https://huggingface.co/me/records", "name": "dfkd-bench records"},
        "notes": "noise, resnet8:resnet8; preset quick, native budget; test accuracy in percent after the last epoch, "
        "mean of seeds 0, 1; knowledge beyond the teacher: none; teacher 90.0 %",
    }


def test_the_hubs_own_reader_understands_the_entries():
    parse = getattr(huggingface_hub, "parse_eval_result_entries", None)
    if parse is None:
        pytest.skip("this version of huggingface_hub has no reader of evaluation results")
    files = eval_results([make_record()], {"digits": HubDataset("someone/digits", "abc")}, "default", "https://x.org")
    (entry,) = parse(yaml.safe_load(*files.values()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("someone/digits", "default", 50.0)
    assert (entry.dataset_revision, entry.date, entry.source_url) == ("abc", "2026-01-02", "https://x.org")


def test_datasets_named_by_a_path_are_pointed_out(tmp_path, hub):
    write_run(tmp_path / "r", 0, spec={"dataset": "folder:/home/me/pictures"})
    done = cli("publish", tmp_path / "r", *REPO, "--dry-run")
    assert "the records name folder:/home/me/pictures, a path of this machine" in done.out
