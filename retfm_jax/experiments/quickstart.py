"""Trains, evaluates and exports a RET-CLIP from nothing, on synthetic patients."""

import dataclasses
import shlex
import time
from collections.abc import Callable

from retfm_jax.config import load_config
from retfm_jax.data.building.builder import quiet_tfds
from retfm_jax.data.sources import open_dataset
from retfm_jax.data_builders.synthetic_fundus import synthetic_fundus_dataset_builder as synthetic
from retfm_jax.evaluation.evaluate import measure
from retfm_jax.evaluation.report.write import write
from retfm_jax.evaluation.results import Results
from retfm_jax.experiments import quickstart_page, training_page
from retfm_jax.experiments.quickstart_page import Stage
from retfm_jax.experiments.training import train_to_the_end
from retfm_jax.files import Path, PathLike, as_path, atomic_write
from retfm_jax.interop.weights import write_tensors
from retfm_jax.model import load, to_torch
from retfm_jax.runtime.lock import hold

#: Name of the page that tells of it all, and synthetic patients that are generated.
PAGE, _PATIENTS = "quickstart.html", 3000


@dataclasses.dataclass(frozen=True)
class Made:
    """Results of the quickstart.

    Attributes:
      results: of the evaluation.
      page: opens with the answer, and shows what was done.
      report: numbers (JSON), pictures and page of the evaluation.
      weights: the network as a published RET-CLIP state dict.
      answer: what was found, in sentences.
      commands: what may be run next, and what each does.
    """

    results: Results
    page: Path
    report: tuple[Path, ...]
    weights: Path
    answer: tuple[str, ...]
    commands: dict[str, str]


class _Story:
    """What is done, told as it begins, with the time that each part takes."""

    def __init__(self, tell: Callable[[str], None], parts: int):
        self._tell, self._parts = tell, parts
        self._began = self._since = time.monotonic()
        self.stages: list[Stage] = []

    def begin(self, title: str) -> None:
        """Ends the part before and begins one."""
        self._end()
        number, now = len(self.stages) + 1, time.monotonic() - self._began
        self.stages.append(Stage(title, 0.0))
        self._tell(f"[{now:5.0f} s] {number} of {self._parts}: {title}")

    def _end(self) -> None:
        now = time.monotonic()
        if self.stages:
            self.stages[-1] = self.stages[-1]._replace(seconds=now - self._since)
        self._since = now

    def told(self) -> list[Stage]:
        """All parts so far, the last one up to now."""
        self._end()
        return self.stages


def quickstart(workdir: PathLike, tell: Callable[[str], None] = lambda what: None) -> Made:
    """Generates patients, trains a small RET-CLIP on them, evaluates it and exports it.

    Args:
      workdir: gets everything; what is there already is not made again.
      tell: is called with a sentence on what begins, and the seconds since the start.

    Raises:
      Stopped: a signal ended its training.
      UserError: another process writes the workdir, or see `training.run_training`.
    """
    workdir = as_path(workdir)
    data_dir = workdir / "datasets"
    config = load_config("quickstart", [f"data.data_dir={data_dir}"])
    story = _Story(tell, parts=4)
    with hold(workdir):
        size = config.data.image.size
        story.begin(
            f"generate {_PATIENTS:,} synthetic patients: two eyes at {size} px, and a report in "
            "English and Chinese"
        )
        with quiet_tfds(bars=True):
            synthetic.build(data_dir, patients=_PATIENTS, image_size=size)
        trained_on = len(open_dataset(config.data.dataset, config.data.train_split, data_dir))
        story.begin(
            f"train a small RET-CLIP on {trained_on:,} of them: photographs and reports, no labels"
        )
        train_to_the_end(config, workdir)
        story.begin("evaluate it on patients whom it has never seen")
        model = load(workdir)
        results = measure(
            model,
            protocols=("zero_shot", "retrieval"),
            dataset=config.data.dataset,
            data_dir=str(data_dir),
            split="test",
        )
        results.checkpoint = str(workdir)
        story.begin("write figures and pages, and the weights as a published RET-CLIP")
        report = write(results, workdir / "evaluation.json")
        weights = workdir / f"{config.method}.safetensors"
        write_tensors(weights, to_torch(model))
        commands = _next(workdir, data_dir)
        page = workdir / PAGE
        text = quickstart_page.page(
            results,
            training_page.read(workdir),
            story.told(),
            _files(report, weights),
            commands,
            workdir,
            trained_on,
            lambda photograph, finding: model.heatmap([photograph], finding)[0],
        )
        with atomic_write(page) as file:
            file.write(text)
    answer = tuple(quickstart_page.sentences(results, trained_on))
    return Made(results, page, tuple(report), weights, answer, commands)


def _files(report: list[Path], weights: Path) -> dict[str, str]:
    """What lies beside the page, and what it is."""
    out = report[0]
    return {
        out.with_suffix(".html").name: "the evaluation: curves of every finding with bands, "
        "intervals by patient, the most confident mistakes, reports found by photographs",
        training_page.PAGE: "the training: losses, learning rate and speed",
        out.with_suffix(".png").name: "the curves as one picture",
        out.name: "all numbers",
        weights.name: "the weights, with the names of the published PyTorch code",
    }


def _next(workdir: Path, data_dir: Path) -> dict[str, str]:
    """Commands that a reader may run next, and what each does."""
    run, data = shlex.quote(str(workdir)), shlex.quote(str(data_dir))
    return {
        f"retfm data check synthetic_fundus --data_dir {data} --out {run}/check": "Look at the "
        "patients that it learned from: counts, faults and a contact sheet.",
        "retfm train --config finetune --workdir mine --config.data.dataset=FOLDER": "Train a "
        "classifier of your own: FOLDER has a folder of photographs for each class.",
        "retfm data import --name clinic --manifest patients.csv --images photographs/ --data_dir "
        "datasets": "Bring your own patients: a table with patient_id, left, right and report.",
    }
