"""Cells of a benchmark are on the disk as they were measured, whole or not at all."""

import dataclasses

import numpy as np
import pytest

from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.predictions import Predictions
from retfm_jax.experiments.benchmark.results import (
    CELL,
    MEASURED,
    PREDICTIONS,
    Cell,
    CellResult,
    Cost,
    Hits,
    cell_folder,
    folder_name,
    read_cell,
    write_cell,
)

COST = Cost(10, 2, 1.5e9, 0.0, 4096, {"embedding": 0.25}, 1 << 20)


def predictions(seed, exclusive=True):
    generator = np.random.default_rng(seed)
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    if not exclusive:
        labels[0, 1] = -1
    return Predictions(
        names=("normal", "糖尿病"),
        labels=labels,
        scores=generator.random((3, 2)),
        patients=("a", "a", "b"),
        samples=((0, "left"), (0, "right"), (2, None)),
        exclusive=exclusive,
    )


def result(**changes):
    chosen = ({"seed": 0, "values": {"strength": 0.1}, "points": [{"score": float("nan")}]},)
    found = CellResult(
        Cell("mine", "task", "linear_probe"),
        "measured",
        predictions=(predictions(0), predictions(1)),
        chosen=chosen,
        cost=COST,
        notes=("a note",),
    )
    return dataclasses.replace(found, **changes)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_cell_comes_back_as_it_was(tmp_path, exclusive):
    seeds = tuple(predictions(seed, exclusive) for seed in range(2))
    written = result(predictions=seeds)
    write_cell(tmp_path, written)
    read = read_cell(tmp_path)
    assert read is not None
    for ours, theirs in zip(read.predictions, seeds, strict=True):
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        for name in ("names", "patients", "samples", "exclusive"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert read.chosen[0]["points"] == [{"score": None}]
    assert (read.cell, read.status, read.cost) == (written.cell, "measured", COST)


def test_hits_come_back(tmp_path):
    found = {d: np.eye(3, dtype=bool) for d in ("image_to_report", "report_to_image")}
    hits = Hits(found, ("a", "b", "c"), (0, 4, 5))
    write_cell(tmp_path, result(predictions=(), hits=hits))
    read = read_cell(tmp_path)
    assert read is not None
    assert read.hits is not None
    assert (read.hits.patients, read.hits.samples) == (hits.patients, hits.samples)
    for direction, of in found.items():
        np.testing.assert_array_equal(read.hits.found[direction], of)


def test_what_was_measured_of_the_machine_stands_apart(tmp_path):
    write_cell(tmp_path / "a", result())
    other = dataclasses.replace(COST, seconds={"embedding": 9.0}, peak_rss=5)
    write_cell(tmp_path / "b", result(cost=other))
    for name in (CELL, PREDICTIONS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / MEASURED).read_bytes() != (tmp_path / "b" / MEASURED).read_bytes()


def test_there_is_no_cell_before_its_last_file(tmp_path):
    assert read_cell(tmp_path) is None
    write_cell(tmp_path, result())
    (tmp_path / CELL).unlink()
    assert read_cell(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "status"])
def test_a_damaged_cell_is_named(tmp_path, damage):
    write_cell(tmp_path, result())
    file = tmp_path / PREDICTIONS
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "gone":
        file.unlink()
    elif damage == "json":
        (tmp_path / CELL).write_text("{}")
    else:
        text = (tmp_path / CELL).read_text()
        (tmp_path / CELL).write_text(text.replace('"measured"', '"done"'))
    with pytest.raises(UserError, match="remove that folder"):
        read_cell(tmp_path)


def test_seeds_of_different_samples_are_refused(tmp_path):
    other = dataclasses.replace(predictions(1), patients=("a", "b", "b"))
    with pytest.raises(ValueError, match="different samples"):
        write_cell(tmp_path, result(predictions=(predictions(0), other)))
    assert read_cell(tmp_path) is None


def test_different_names_have_different_folders_inside_the_benchmark(tmp_path):
    names = ["a", "A", "a ", "a/b", "a_b", "..", ".", "", "../x", "x" * 300, "x" * 301, "糖", "症"]
    folders = {cell_folder(tmp_path, Cell(name, "t", "p")).resolve() for name in names}
    assert len(folders) == len(names)
    assert all(each.is_relative_to(tmp_path.resolve()) for each in folders)
    assert all(len(folder_name(name)) <= 80 for name in names)
    assert len({str(each).casefold() for each in folders}) == len(names)
