"""A benchmark of segmentations: its runs and their grid, its page, and tasks without masks."""

import csv
import dataclasses
import shutil
import types

import jax
import mask_photographs
import numpy as np
import pytest
from PIL import Image

from retfm_jax.config import ExperimentConfig, load_config
from retfm_jax.data.segmented import open_segmented
from retfm_jax.data_builders.synthetic_fundus.as_files import write_class_folders
from retfm_jax.errors import Stopped, UserError
from retfm_jax.evaluation.metrics.mask_counts import MaskCounts
from retfm_jax.evaluation.metrics.segmentation import Tally
from retfm_jax.evaluation.segmentation import tally
from retfm_jax.experiments.benchmark import comparisons, fine_tuning, running
from retfm_jax.experiments.benchmark.heads import Judged
from retfm_jax.experiments.benchmark.masked import open_masked
from retfm_jax.experiments.benchmark.page import write_report
from retfm_jax.experiments.benchmark.photographs import Place, open_photographs
from retfm_jax.experiments.benchmark.results import (
    Cell,
    CellResult,
    Cost,
    Findings,
    TaskFacts,
    cell_folder,
    read_cell,
    write_cell,
)
from retfm_jax.experiments.benchmark.suite import Segment, TaskEntry, suite_of
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel, load

pytestmark = pytest.mark.usefixtures("one_device")

TOWER = [
    *("model.image.image_size=32", "data.image.size=32", "model.image.width=16"),
    *("model.image.layers=2", "model.image.heads=2", "model.decoder.width=16"),
    "model.decoder.heads=2",
]
#: As short as it can be: whole photographs, one step.
SHORT = [
    *("model.image.image_size=32", "data.image.size=32", "data.masks.geometry=whole"),
    *("model.decoder={'kind':'unetr','channels':4}", "optimizer.warmup_epochs=0"),
    *("data.augment.affine_probability=0", "data.augment.flip=none", "model.dtype=float32"),
]
NAMES = ("disc", "cup", "vessels")
COST = Cost(10, 2, 1.5e9, 1e9, 4096, {"training": 0.25}, 1 << 20)


def write_table(root):
    """Photographs with masks as a folder with a table, two of a patient; one cup is unknown."""
    (root / "drawn").mkdir(parents=True)
    rows, number = ["image,mask_disc,mask_cup,mask_vessels,fov,patient,split"], 0
    for split, count in {"train": 8, "validation": 2, "test": 4}.items():
        for at in range(count):
            image, drawn = mask_photographs.scene(36, 40, number)
            Image.fromarray(image).save(root / f"{number}.png")
            paths = {name: f"drawn/{number}_{name}.png" for name in (*NAMES, "field")}
            for name, path in paths.items():
                Image.fromarray(drawn[name] * np.uint8(255)).save(root / path)
            if split == "test" and at == 0:
                paths["cup"] = ""
            rows.append(",".join([f"{number}.png", *paths.values(), f"{split}{at // 2}", split]))
            number += 1
    (root / "masks.csv").write_text("\n".join(rows) + "\n")
    return root


def suite(**segment):
    return suite_of(
        {
            "title": "masks",
            "models": {"tower": "tower", "other": "other"},
            "tasks": {"eyes": "eyes"},
            "protocols": {"segment": segment},
            "seeds": "1",
            "draws": "50",
            "published": [
                {"task": "eyes", "protocol": "segment", "model": "tower", "metric": "disc/dice",
                 "value": "0.9", "source": "an article"}
            ],
        },
        "suite.yaml",
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    write_table(folder / "eyes")
    write_class_folders(folder / "clinic", patients=8, size=32)
    return folder


def opened(place, dataset, **entries):
    return open_masked(place, "eyes", TaskEntry(str(dataset), **entries))


def test_a_network_is_trained_and_killed_before_its_cell_is_written(world, tmp_path, monkeypatch):
    config = load_config("mae_synthetic", TOWER)
    method = make_method(config.method, config.model)
    params, state = jax.jit(method.init)(jax.random.key(3))
    RetinalModel(method, params, state, config).save(tmp_path / "tower")
    asked = suite(
        learning_rate=["1e-2"], last_layers=["0"], epochs="1", batch_size="8", keep="true",
        changes=SHORT,
    )  # fmt: skip
    entry = TaskEntry(str(world / "eyes"), changes=("data.workers=0",))
    model = dataclasses.replace(asked.models["tower"], load=str(tmp_path / "tower"))
    asked = dataclasses.replace(asked, models={"tower": model}, tasks={"eyes": entry})

    def killed(folder, result):
        write_cell(tmp_path / "unbroken", result)
        raise KeyboardInterrupt

    def run():
        return running.run_benchmark(asked, tmp_path / "out", data_dir=str(tmp_path)).failed

    monkeypatch.setattr(running, "write_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(running, "write_cell", write_cell)
    monkeypatch.setattr(fine_tuning, "train_to_the_end", None)  # what is trained is not again
    assert run() == ()
    folder = cell_folder(tmp_path / "out", Cell("tower", "eyes", "segment"))
    for file in ("masks.npz", "cell.json"):
        assert (folder / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes()
    found, kept = read_cell(folder), load(folder / "network")
    assert found is not None
    assert found.cost is not None
    assert 0 < found.cost.trained_parameters < found.cost.parameters
    assert found.cost.training_flops > found.cost.image_flops > 0
    (masks,) = found.masks
    assert masks.patients == ("test0", "test0", "test1", "test1")
    assert masks.thresholds == kept.mask_decisions.thresholds
    masked = opened(Place(tmp_path / "again", str(tmp_path), None, "auroc"), world / "eyes")
    again = tally(kept, masked.source("test"), progress=False)
    np.testing.assert_array_equal(again.scores_by_image(), masks.scores)
    assert not (folder / "runs").exists()


class _Trial:
    """The more layers learn the better, at any learning rate."""

    metric, worth = "average_precision", {None: 0.7, 0: 0.5, 10: 0.9, 9: 0.9}

    def config(self, config, where):
        return config

    def judged(self, model):
        return Judged(self.worth[model.config.optimizer.last_layers], float("nan"))

    def tested(self, model):
        return model.config.train.seed, model.config.optimizer.last_layers


def test_the_grid_is_of_rates_and_layers_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    trained: dict[str, ExperimentConfig] = {}
    calls = []

    def train(config, workdir):
        calls.append(workdir.name)
        if len(calls) == 3:
            raise Stopped("by a signal")
        workdir.mkdir(parents=True)
        trained[workdir.name] = config

    monkeypatch.setattr(fine_tuning, "train_to_the_end", train)
    monkeypatch.setattr(
        fine_tuning, "load", lambda path: types.SimpleNamespace(config=trained[path.name])
    )
    monkeypatch.setattr(fine_tuning, "_steps", lambda path: 5)
    monkeypatch.setattr(
        fine_tuning, "_step_flops", lambda config: 1.0 + (config.optimizer.last_layers or 0)
    )
    monkeypatch.setattr(fine_tuning, "_cost", lambda config: (7, 8))
    settings = Segment(learning_rate=(1e-3,), last_layers=("0", "10", "9", "all"))

    def tune():
        changes = ("data.masks.geometry=whole",)
        return fine_tuning.tune(settings, _Trial(), changes, "weights", range(2), tmp_path)

    with pytest.raises(Stopped):
        tune()
    found = tune()
    rate = "rate_0.001"
    assert calls == [
        f"seed_0_{rate}_last_0", f"seed_0_{rate}_last_10", f"seed_0_{rate}_last_9",
        f"seed_0_{rate}_last_9", f"seed_0_{rate}", f"seed_1_{rate}_last_9",
    ]  # fmt: skip
    # Of two that are equally good the one that trains less is taken.
    assert found.found == ((0, 9), (1, 9))
    assert [each["values"] for each in found.chosen] == [
        {"learning_rate": 1e-3, "last_layers": 9}
    ] * 2
    assert [point["score"] for point in found.chosen[0]["points"]] == [0.5, 0.9, 0.9, 0.7]
    assert found.flops == 5 * (1 + 11 + 10 + 1 + 10)
    assert (found.parameters, found.memory) == (7, 8)
    assert found.config.data.masks.geometry == "whole"
    assert found.config.init.image == "weights"


def counts(quality, seed):
    """Of photographs of which nothing is known of vessels."""
    world, noise = np.random.default_rng(7), np.random.default_rng(seed)
    found = Tally(NAMES)
    for number in range(8):
        truth = (world.random((9, 10, 3)) < 0.3).astype(np.uint8)
        truth[..., 2] = 255
        logits = quality * truth[..., :2] + noise.normal(size=(9, 10, 2)) - 1
        p = np.concatenate([1 / (1 + np.exp(-logits)), np.full((9, 10, 1), 0.5)], axis=-1)
        found.add(str(number), p, truth, group=f"P{number // 2}")
    return MaskCounts.of(found, dict.fromkeys(NAMES, 0.5), tuple(range(8)))


def findings():
    asked = dataclasses.replace(suite(), seeds=2)
    chosen = ({"seed": 0, "values": {"learning_rate": 0.01}, "metric": "average_precision",
               "points": [{"learning_rate": 0.01, "score": 0.5}]},)  # fmt: skip
    cells = tuple(
        CellResult(
            Cell(name, "eyes", "segment"), "measured", chosen=chosen, cost=COST,
            masks=tuple(counts(quality, 10 * at + seed) for seed in range(2)),
        )
        for at, (name, quality) in enumerate({"tower": 3.0, "other": 0.5}.items())
    )  # fmt: skip
    counted = dict.fromkeys(("train", "validation", "test"), 8)
    facts = TaskFacts("eyes", NAMES, "masks", counted, counted, True, synthetic=True)
    return Findings(asked, cells, {}, {}, {}, masks={"eyes": facts})


def test_the_page_compares_scores_and_masks(tmp_path):
    found = findings()
    write_report(found, tmp_path)
    with (tmp_path / "benchmark.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["metric"] for row in rows] == ["average_precision"] * 2 + ["image_dice"] * 2
    masks = {cell.cell.model: cell.masks for cell in found.cells}
    ones = np.ones((8, 1), np.float32)
    for row in rows:
        each = [of.statistic(row["metric"])(ones)[0] for of in masks[row["model"]]]
        assert float(row["value"]) == pytest.approx(np.mean(each), abs=1e-6)
        assert (row["seeds"], row["best"]) == ("2", "tower")
        assert (row["rank"] == "1") == (row["model"] == "tower")
    assert [bool(row["published"]) for row in rows] == [True, False, False, False]
    page = (tmp_path / "benchmark.html").read_text(encoding="utf-8")
    for said in (
        "segmentation, macro AUPR", "segmentation, macro Dice", "By structure: AUPR",
        "By structure: Dice", "Thresholds of probabilities", "disc, pooled Dice", "3<small>",
        "alike in vessels: means leave that out", "8 images of the test split · 4 patients",
        "All tasks are synthetic", "chosen on validation, by the macro AUPR of pixels",
    ):  # fmt: skip
        assert said in page, said
    assert page.count("Chosen on validation") == 1
    for each in comparisons.compare(found):
        assert list(each.parts) == ["disc", "cup"]
        for structure, of in each.parts.items():
            metric = f"{structure}/{each.metric}"
            value = np.mean([m.statistic(metric)(ones)[0] for m in masks["tower"]])
            assert of["tower"].value == pytest.approx(value)


def test_masks_of_a_cell_come_back_and_damage_is_named(tmp_path):
    cell = findings().cells[0]
    write_cell(tmp_path, cell)
    back = read_cell(tmp_path)
    assert back is not None
    for ours, theirs in zip(back.masks, cell.masks, strict=True):
        for name in ("structures", "thresholds", "patients", "samples"):
            assert getattr(ours, name) == getattr(theirs, name)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.counts, theirs.counts)
    arrays = dict(np.load(tmp_path / "masks.npz"))
    np.savez(tmp_path / "masks.npz", **{**arrays, "samples": arrays["samples"][1:]})
    with pytest.raises(UserError, match="remove that folder"):
        read_cell(tmp_path)
    fewer = dataclasses.replace(cell.masks[0], patients=("P",) * 8)
    with pytest.raises(ValueError, match="segment different samples"):
        write_cell(tmp_path, dataclasses.replace(cell, masks=(cell.masks[0], fewer)))


def test_tasks_without_masks_and_tasks_without_labels_are_told_apart(world, tmp_path):
    place, eyes = Place(tmp_path, str(world), None, "auroc"), TaskEntry(str(world / "eyes"))
    assert opened(place, world / "clinic") is None
    assert open_photographs(place, "eyes", eyes).splits is None
    with pytest.raises(UserError, match=r"tasks.eyes.outcome is one of classes"):
        opened(place, world / "eyes", outcome="findings")
    with pytest.raises(UserError, match="is one of files, whose test split is called test"):
        opened(place, world / "eyes", test="test[:5]")


def test_training_leaves_out_what_cannot_be_used_or_is_tested(world, tmp_path):
    root = shutil.copytree(world / "eyes", tmp_path / "eyes")
    gray = np.arange(36 * 40, dtype=np.uint8).reshape(36, 40)
    Image.fromarray(gray).save(root / "drawn" / "0_disc.png")
    shutil.copy(root / "10.png", root / "1.png")
    place = Place(tmp_path / "out", str(world), None, "auroc")
    masked = opened(place, root)
    assert masked.facts.images == {"train": 6, "validation": 2, "test": 4}
    assert masked.facts.patients_known
    assert any("1 photographs left out of train: same photograph" in n for n in masked.facts.notes)
    learned = open_segmented(masked.data, ("train", "validation")).sources
    assert {split: len(of) for split, of in learned.items()} == {"train": 6, "validation": 2}
    shutil.copy(root / "drawn" / "12_disc.png", root / "drawn" / "13_disc.png")
    shutil.rmtree(place.task("eyes") / "masks")
    with pytest.raises(UserError, match="is not what it was when this benchmark began"):
        opened(place, root)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"last_layers": ["none"]}, r"last_layers holds 'none': write a number from 0, or 'all'"),
        ({"changes": ["optimizer.last_layers=0"]}, "holds optimizer.last_layers, which the bench"),
        ({"changes": ["model.loss"]}, "write entry=value"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        suite(**settings)
