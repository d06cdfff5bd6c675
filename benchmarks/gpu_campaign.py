"""A teacher and the grid of the paper's schedules on one GPU, in portions of ten minutes.

    python benchmarks/gpu_campaign.py --out campaign --data-root DATA
    python benchmarks/gpu_campaign.py --out campaign --data-root DATA      # the same again, until nothing waits

trains the WRN-40-2 teacher by the dataset's recipe (or takes `--teacher FILE`), then does the runs of the preset
`paper` in order of worth. It stops by itself before `--minutes` are over and leaves records, checkpoints and teacher
under `--out`, from which the same command resumes. Prints a table last. `--rehearse` does the like on digits and a CPU
in less than a minute; it shows that the machinery works, and nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lent import Clock, TimeIsUp, make_registry, out_folder, require, shortened, table, use_checkout, write

if TYPE_CHECKING:
    from dfkd_bench.spec import RunSpec, TeacherRef
    from dfkd_bench.workbench import Workbench

__all__ = ["WORTH", "main"]

#: First what readers ask for first; then the null baselines that it has to be compared with; then the rest.
WORTH = (
    "fast",
    "cmi",
    "nayer",
    "deepinversion",
    "dda",
    "noise",
    "untrained-generator",
    "one-image",
    "dfq",
    "csd",
    "zskt",
    "dfad",
    "dafl",
    "dda-released",
    "real-data",
    "scratch",
)
#: Test accuracy that published WRN-40-2 teachers have on CIFAR-10, in percent.
GOAL = 94.5
_SCHEDULE = {"warmup_rounds": 1, "epochs": 2, "rounds_per_epoch": 1, "steps_per_epoch": 2, "batch_size": 8}
_OPTIONS = {"batch_size": 8, "steps": 2, "latent_dim": 16}


class Campaign:
    """What is to be done, in order, and how far it is.

    Args:
        asked: the command line.
        out: where all of it is kept.
    """

    def __init__(self, asked: argparse.Namespace, out: Path) -> None:
        from dfkd_bench.spec import Pair, TeacherRecipe
        from dfkd_bench.workbench import Workbench

        self._asked = asked
        self.bench: Workbench = Workbench.make(
            results=out / "results",
            teachers=out / "teachers",
            data_root=asked.data_root,
            device="cpu" if asked.rehearse else asked.device,
            registry=make_registry(),
        )
        self.bench.store.checkpoint_seconds = asked.checkpoint_seconds
        self.card = self.bench.card("digits" if asked.rehearse else asked.dataset)
        self.pair = Pair.parse("resnet8:resnet8" if asked.rehearse else asked.pair)
        recipe = self.card.teacher_recipe
        if asked.rehearse:
            recipe = TeacherRecipe(epochs=2, batch_size=64, warmup_epochs=1)
        elif asked.teacher_epochs:
            recipe = recipe.model_copy(update={"epochs": asked.teacher_epochs})
        self.recipe = recipe
        self.teacher: Any = None
        self.runs: list[tuple[str, RunSpec]] = []
        self.unplanned: dict[str, str] = {}
        self.problems: dict[str, str] = {}

    def go(self) -> None:
        """All of it, until the clock rings."""
        from dfkd_bench.engines import run_grid

        self._plan()
        store = self.bench.store
        if self._asked.teacher:
            self.teacher = store.import_file(self._asked.teacher, self.pair.teacher, self.card.name)
        else:
            self.teacher = store.train(self.pair.teacher, self.card.name, self.recipe)
        for method, spec in self.runs:
            print(f"{method}, seed {spec.seed}", flush=True)
            seconds = self._asked.checkpoint_seconds
            done = run_grid([spec], self.bench, engine="inline", checkpoint_seconds=seconds)
            for problem in done.problems:
                self.problems[spec.hash] = problem

    def _plan(self) -> None:
        """Before anything is computed: what cannot be planned is a row."""
        from dfkd_bench.errors import DfkdError
        from dfkd_bench.planning.requests import Request, plan

        registry, ref = self.bench.registry, self._teacher_ref()
        for method in self._asked.methods or (("fast", "noise") if self._asked.rehearse else WORTH):
            request = Request(
                methods=[method],
                pairs=[self.pair],
                dataset=self.card.name,
                teacher=ref,
                preset="quick" if self._asked.rehearse else self._asked.preset,
                seeds=range(self._asked.seeds),
            )
            try:
                if self._asked.rehearse:
                    specs = shortened(request, self.card, registry, _SCHEDULE, _OPTIONS)
                else:
                    specs = plan(request, self.card, registry)
            except DfkdError as error:
                self.unplanned[method] = str(error)
                continue
            self.runs += [(method, spec) for spec in specs]
        # A seed of each method before the next one of any.
        self.runs.sort(key=lambda run: run[1].seed)

    def _teacher_ref(self) -> TeacherRef:
        from dfkd_bench.spec import TeacherRef

        if self._asked.teacher:
            store = self.bench.store
            return TeacherRef(sha256=store.check_file(self._asked.teacher, self.pair.teacher, self.card.name))
        return TeacherRef(recipe=self.recipe)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """What became of each, by what lies in the folder."""
        runs = [(method, str(spec.seed), *self._state(spec)) for method, spec in self.runs]
        return [self._teacher_row(), *runs, *((name, "", "cannot run", why) for name, why in self.unplanned.items())]

    def _teacher_row(self) -> tuple[str, str, str, str]:
        name = f"teacher {self.pair.teacher}"
        if self.teacher is None:
            return (name, "", "not there yet", "")
        accuracy = self.teacher.card.accuracy
        goal = "" if self._asked.rehearse else f", goal {GOAL} %: {'met' if accuracy >= GOAL else 'MISSED'}"
        return (name, "", "there", f"{accuracy:.2f} %{goal}")

    def _state(self, spec: RunSpec) -> tuple[str, str]:
        from dfkd_bench.results.progress_file import read

        record = self.bench.results.read(spec.hash)
        if record is not None:
            seconds = sum(cost["seconds"] for cost in record.cost.values())
            last = f"{record.accuracy.last:.2f} %" if record.accuracy else record.reason or ""
            return record.status, f"{last}, {seconds / 60:.1f} min on {record.environment.hardware}"
        if spec.hash in self.problems:
            return "cannot run", self.problems[spec.hash]
        progress = read(self.bench.results, spec.hash)
        if progress is None:
            return "waits", ""
        return "paused", f"{progress.done} of {progress.segments} segments"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: all is done; 3: the clock rang, the same command resumes; 2: it cannot go on."""
    asked = _parse(arguments)
    use_checkout()
    require("sklearn" if asked.rehearse else "pyarrow")
    from dfkd_bench.errors import DfkdError

    clock = Clock(asked.minutes)
    out = out_folder(asked.out, "campaign")
    if asked.resume_from:
        # What is there already is newer.
        shutil.copytree(asked.resume_from, out, dirs_exist_ok=True, copy_function=_copied_if_absent)
    status = 0
    try:
        campaign = Campaign(asked, out)
        with clock.stops():
            campaign.go()
    except TimeIsUp:
        status = 3
    except DfkdError as error:
        print(error, file=sys.stderr)
        return 2
    rows = campaign.rows()
    write(out / "campaign.json", {"finished": status == 0, "rows": rows})
    print(table(("what", "seed", "state", "measured"), rows))
    if status == 3:
        print(f"The time was up. Start the same command again with what is in {out}, and it goes on from there.")
    return status


def _copied_if_absent(source: str, target: str) -> str:
    if not Path(target).exists():
        shutil.copy2(source, target)
    return target


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where all is kept; default: $OUT, else ./campaign")
    parser.add_argument("--from", dest="resume_from", type=Path, help="copy an earlier portion into --out first")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop by itself after so many")
    parser.add_argument("--checkpoint-seconds", type=float, default=30.0, help="least time between checkpoints")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", type=Path, help="the datasets' folder; default: the hub's cache")
    parser.add_argument("--pair", default="wrn40_2:wrn16_1", help="TEACHER:STUDENT")
    parser.add_argument("--teacher", type=Path, help="its weights, in place of training one")
    parser.add_argument("--teacher-epochs", type=int, help="in place of the recipe's")
    parser.add_argument("--methods", nargs="+", help="in this order; default: by worth")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rehearse", action="store_true", help="digits, a tiny schedule, the CPU")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
