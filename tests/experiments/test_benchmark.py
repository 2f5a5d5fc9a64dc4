"""A benchmark as a whole: stopped and resumed, shared, and refused where it must be."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from retfm_jax import cli
from retfm_jax.config import load_config
from retfm_jax.data_builders.synthetic_fundus.as_files import write_class_folders
from retfm_jax.errors import Stopped, UserError
from retfm_jax.experiments.benchmark import fine_tuning, running
from retfm_jax.experiments.benchmark.photographs import Place, open_photographs
from retfm_jax.experiments.benchmark.results import Cell, cell_folder, read_cell
from retfm_jax.experiments.benchmark.suite import (
    FineTune,
    ModelEntry,
    TaskEntry,
    read_suite,
    suite_of,
)
from retfm_jax.methods import make_method
from retfm_jax.model import RetinalModel, load
from retfm_jax.runtime import lock

TOWERS = [
    *("model.image.image_size=32", "data.image.size=32", "model.text.width=32"),
    *("model.text.layers=1", "model.text.mlp_width=32", "model.embed_dim=16"),
    "data.text.context_length=32",
]
IMAGES = [
    *("model.image.image_size=32", "data.image.size=32", "model.image.width=16"),
    *("model.image.layers=1", "model.image.heads=2", "model.decoder.width=16"),
    "model.decoder.heads=2",
]
#: Fine-tuning as short as it can be.
SHORT = (
    *("optimizer.warmup_epochs=0", "data.augment.rand_augment=0", "model.dtype=float32"),
    *("model.image.drop_path=0", "data.augment.erasing_probability=0"),
)
#: Measured of the machine and the hour.
APART = {"measured.json", "timing.csv", "cost.html"}


def network(folder, config, overrides):
    """A network with fresh weights."""
    config = load_config(config, overrides)
    method = make_method(config.method, config.model)
    params, state = jax.jit(method.init)(jax.random.key(3))
    RetinalModel(method, params, state, config).save(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    build = ["data", "build", "synthetic_fundus", "--data_dir", str(folder), "--patients", "24"]
    assert cli.main([*build, "--image_size", "32", "--workers", "1"]) == 0
    write_class_folders(folder / "clinic", patients=40, size=32)
    network(folder / "pair", "quickstart", TOWERS)
    network(folder / "images", "mae_synthetic", IMAGES)
    return folder


@pytest.fixture(scope="module")
def suite(world):
    pair, clinic = str(world / "pair"), str(world / "clinic")
    return suite_of(
        {
            "title": "small",
            "models": {"pair": pair, "images": str(world / "images")},
            "tasks": {"clinic": clinic, "drawn": "synthetic_fundus"},
            "protocols": {
                "zero_shot": {"languages": ["en"]},
                "retrieval": {"languages": ["en"]},
                "linear_probe": {"strength": ["1e-2", "1"]},
                "few_shot": {"shots": ["1"], "strength": ["1e-1", "10"]},
            },
            "seeds": "2",
            "draws": "20",
        },
        "suite.yaml",
    )


def run(suite, out, world, **more):
    return running.run_benchmark(suite, out, data_dir=str(world), **more)


@pytest.fixture(scope="module")
def whole(suite, world):
    outcome = run(suite, world / "whole", world)
    assert (outcome.cells, outcome.failed) == (16, ())
    return world / "whole"


def contents(out):
    """Bytes of what must not depend on when, and by whom, it was made."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for kept in ("cells", "tasks", "benchmark.html", "benchmark.csv")
        for path in ([out / kept] if (out / kept).is_file() else sorted((out / kept).rglob("*")))
        if path.is_file() and path.name not in APART and path.parent.parent.name != "features"
        if path.parent.parent.name != "embeddings"
    }


def cell_of(out, *names):
    found = read_cell(cell_folder(out, Cell(*names)))
    assert found is not None
    return found


def test_every_cell_is_measured_or_says_why_not(whole, suite):
    for cell in suite.cells():
        found = cell_of(whole, cell.model, cell.task, cell.protocol, cell.setting)
        texts = cell.model != "images"
        reports = cell.task == "drawn"
        applies = {
            "zero_shot": texts,
            "retrieval": texts and reports,
            # Of 24 patients some findings have too few.
            "few_shot": cell.task == "clinic",
        }.get(cell.protocol, True)
        assert found.status == ("measured" if applies else "not applicable"), cell
        assert bool(found.reason) is not applies
        assert bool(found.cost) is applies
        if applies and cell.protocol != "retrieval":
            assert len(found.predictions) == (2 if cell.protocol == "few_shot" else 1)
    assert (whole / "benchmark.html").is_file()


def test_models_of_a_comparison_predict_the_same_photographs(whole, suite):
    asked = [(task, "linear_probe", "") for task in suite.tasks] + [
        ("clinic", "few_shot", "1 shot")
    ]
    for names in asked:
        found = [cell_of(whole, model, *names).predictions[0] for model in suite.models]
        assert len({each.samples for each in found}) == 1
        assert len({each.patients for each in found}) == 1
        assert len({each.names for each in found}) == 1


def test_a_grid_is_chosen_by_its_validation_score(whole):
    (chosen,) = cell_of(whole, "pair", "drawn", "linear_probe").chosen
    scores = {point["strength"]: point["score"] for point in chosen["points"]}
    assert set(scores) == {0.01, 1.0}
    assert scores[chosen["values"]["strength"]] == max(scores.values())


def test_stopped_twice_and_resumed_it_is_the_same(whole, suite, world, tmp_path, monkeypatch):
    write, calls = running.write_cell, []

    def stop_at(number):
        def write_cell(folder, result):
            calls.append(folder)
            if len(calls) == number:
                raise KeyboardInterrupt
            write(folder, result)

        return write_cell

    for number in (5, 14):
        monkeypatch.setattr(running, "write_cell", stop_at(number))
        with pytest.raises(KeyboardInterrupt):
            run(suite, tmp_path / "out", world)
    monkeypatch.setattr(running, "write_cell", write)
    # As a kill would have left it.
    partial = next((tmp_path / "out" / "cells").rglob("features/test/block_000000.npz"))
    partial.unlink()
    run(suite, tmp_path / "out", world)
    ours, theirs = contents(tmp_path / "out"), contents(whole)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_nothing_is_measured_twice(whole, suite, world, monkeypatch):
    monkeypatch.setattr(running, "measure_cell", None)
    before = contents(whole)
    assert run(suite, whole, world).failed == ()
    assert contents(whole) == before


def test_a_cell_that_another_process_holds_is_waited_for(
    whole, suite, world, tmp_path, monkeypatch
):
    out = shutil.copytree(whole, tmp_path / "out")
    held = cell_folder(out, Cell("pair", "drawn", "linear_probe"))
    (held / "cell.json").unlink()
    holder = dataclasses.replace(lock.Holder.here(), pid=1, started=lock._started(1))
    lock._write(held / lock.NAME, holder, 0)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        (held / lock.NAME).unlink()

    monkeypatch.setattr(running.time, "sleep", sleep)
    run(suite, out, world)
    assert len(naps) == 1
    assert contents(out) == contents(whole)


def test_a_failed_cell_is_said_and_tried_again(suite, world, tmp_path, capsys):
    entry = suite.models["images"]
    broken = dataclasses.replace(entry, load=str(world / "nosuch"))
    small = dataclasses.replace(suite, models={"images": broken})
    small = small.only(tasks=["clinic"], protocols=["linear_probe", "few_shot"])
    outcome = run(small, tmp_path, world)
    assert len(outcome.failed) == 2
    assert "does not exist" in outcome.failed[0]
    assert cell_of(tmp_path, "images", "clinic", "linear_probe").status == "failed"
    shutil.copytree(world / "images", world / "nosuch")
    try:
        assert run(small, tmp_path, world).failed == ()
    finally:
        shutil.rmtree(world / "nosuch")
    assert cell_of(tmp_path, "images", "clinic", "linear_probe").status == "measured"


def test_fine_tuning_goes_on_with_the_runs_that_are_left(suite, world, tmp_path, monkeypatch):
    settings = FineTune((1e-4, 1e-3), epochs=1.0, batch_size=8, changes=SHORT, keep=True)
    tuned = dataclasses.replace(suite, protocols={"fine_tune": settings})
    tuned = tuned.only(models=["images"], tasks=["clinic"])
    train, trained = fine_tuning.train_to_the_end, []

    def until_the_second(config, workdir):
        if len(trained) == 1:
            trained.append("stopped")
            raise Stopped("by a signal")
        trained.append((config.train.seed, config.optimizer.learning_rate))
        train(config, workdir)

    monkeypatch.setattr(fine_tuning, "train_to_the_end", until_the_second)
    with pytest.raises(Stopped):
        run(tuned, tmp_path, world)
    assert run(tuned, tmp_path, world).failed == ()
    found = cell_of(tmp_path, "images", "clinic", "fine_tune")
    rates = [each["values"]["learning_rate"] for each in found.chosen]
    assert trained == [(0, 1e-4), "stopped", (0, 1e-3), (1, rates[0])]
    assert rates[0] == rates[1]
    points = found.chosen[0]["points"]
    assert max(points, key=lambda point: point["score"])["learning_rate"] == rates[0]
    first, second = found.predictions
    assert first.samples == second.samples
    assert not np.array_equal(first.scores, second.scores)
    assert found.cost is not None
    assert found.cost.trained_parameters == found.cost.parameters + 17 * 4
    assert found.cost.training_flops > found.cost.image_flops
    folder = cell_folder(tmp_path, found.cell)
    assert not (folder / "runs").exists()
    assert load(folder / "network").classes == first.names


def test_another_suite_is_refused_and_more_models_are_not(whole, suite, world, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(UserError, match=r"is another one: seeds \(2 there, 3 here\)"):
        run(dataclasses.replace(suite, seeds=3), out, world)
    strength = dataclasses.replace(suite.protocols["linear_probe"], strength=(5.0,))
    changed = {**suite.protocols, "linear_probe": strength}
    with pytest.raises(UserError, match=r"protocols\.linear_probe\.strength"):
        run(dataclasses.replace(suite, protocols=changed), out, world)
    more = suite.with_models({"another": str(world / "images")})
    fresh = ModelEntry(str(world / "pair"), untrained=True)
    more = dataclasses.replace(more, models={**more.models, "fresh": fresh})
    more = more.only(models=["another", "fresh"], tasks=["clinic"], protocols=["linear_probe"])
    outcome = run(more, out, world)
    assert (outcome.cells, outcome.failed) == (2, ())
    stored = json.loads((out / "suite.json").read_text())["suite"]
    assert [*stored["models"]] == ["pair", "images", "another", "fresh"]
    rows = (out / "benchmark.csv").read_text()
    assert all(name in rows for name in stored["models"])


def test_changed_weights_and_photographs_are_refused(whole, suite, world, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    one = suite.only(models=["images"], tasks=["clinic"], protocols=["linear_probe"])
    (cell_folder(out, one.cells()[0]) / "cell.json").unlink()
    facts = next((out / "models").glob("images*/model.json"))
    facts.write_text(facts.read_text().replace('"checksum": "', '"checksum": "0'))
    assert "are not those that this benchmark began with" in run(one, out, world).failed[0]
    shutil.copy(whole / facts.relative_to(out), facts)
    task = next((out / "tasks").glob("clinic*/task.json"))
    task.write_text(task.read_text().replace('"digest": "', '"digest": "0'))
    assert "is not what it was when this benchmark began" in run(one, out, world).failed[0]


def test_training_leaves_out_what_later_splits_hold(world, tmp_path):
    root = tmp_path / "set"
    for split, first in (("train", 0), ("val", 24), ("test", 36)):
        made = write_class_folders(tmp_path / split, patients=8, size=32)
        for path in made.rglob("*.jpg"):
            target = root / split / path.parent.name / f"{first + int(path.stem.split('_')[0])}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            data = np.frombuffer(path.read_bytes(), np.uint8)
            # Each split has files of its own, but for a comment in the JPEG.
            target.write_bytes(data.tobytes() + split.encode())
    copied = next((root / "test" / "normal").glob("*.jpg"))
    shutil.copy(copied, root / "train" / "normal" / "copy.jpg")
    place = Place(tmp_path / "out", str(world), None, "auroc")
    found = open_photographs(place, "set", TaskEntry(str(root)))
    ids = [record.record_id for record in found.labeled()["train"].chosen]
    assert not any("copy" in each for each in ids)
    assert any("1 photographs left out of train" in note for note in found.facts.notes)
    assert found.data.exclude is not None
    assert "copy.jpg" in Path(found.data.exclude).read_text()


def test_the_command_line_tells_failures_by_its_status(world, tmp_path, capsys):
    file = tmp_path / "suite.yaml"
    file.write_text(
        f"title: small\nmodels: {{nothing: {tmp_path / 'nosuch'}}}\n"
        "tasks: [synthetic_fundus]\nprotocols: {linear_probe: {}, few_shot: {shots: [1]}}\n"
    )
    command = ["benchmark", str(file), "--out", str(tmp_path / "out"), "--data_dir", str(world)]
    assert cli.main([*command, "--protocols", "linear_probe"]) == 1
    said = capsys.readouterr()
    assert "1 cells, of which 0 are measured" in said.out
    assert "1 of 1 cells failed" in said.err
    assert cli.main([*command, "--protocols", "linear_prob"]) == 1
    assert "did you mean 'linear_probe'" in capsys.readouterr().err
    assert cli.main([*command, "--model", "no_place"]) == 1
    assert read_suite(file).title == "small"
