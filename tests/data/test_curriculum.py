"""A curriculum: an epoch sees the records of its stage, and batch k stays a function of k."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from retfm_jax.config import (
    CurriculumConfig,
    CurriculumStageConfig,
    DataConfig,
    ExpertConfig,
    ImageConfig,
    MixConfig,
    TextConfig,
)
from retfm_jax.data.curriculum import Staged, read_levels
from retfm_jax.data.epochs import Epochs, Stage
from retfm_jax.data.kinds.category import category_id
from retfm_jax.data.pipeline import TrainIterator, open_training
from retfm_jax.errors import UserError

BATCH = 2
EASY = {"i0", "i3", "i6", "i9"}
MIDDLE = {"i1", "i4", "i7", "i10"}
HARD = {"i2", "i5", "i8"}
CURRICULUM = CurriculumConfig(
    stages=(
        CurriculumStageConfig(until=2, levels=(1,)),
        CurriculumStageConfig(until=3, levels=(2, 3)),
        CurriculumStageConfig(levels=(1, 3), records="descriptions"),
    ),
    categories=(("normal fundus",), ("drusen",), ("hard exudates",)),
    descriptions=ExpertConfig("captions"),
)
#: Batches of an epoch of each stage: of 4, 7 and 11 records (which have the last level: all of the
#: descriptions, of which nobody ranked any).
LENGTHS = (2, 3, 5)


@pytest.fixture
def config(data_dir) -> DataConfig:
    return DataConfig(
        dataset="captions",
        data_dir=str(data_dir),
        language="en",
        image=ImageConfig(size=16),
        text=TextConfig(context_length=12),
        curriculum=CURRICULUM,
        threads=0,
    )


def with_curriculum(config: DataConfig, **changes) -> DataConfig:
    assert config.curriculum is not None
    return dataclasses.replace(config, curriculum=dataclasses.replace(config.curriculum, **changes))


def iterator(config: DataConfig, batch_size: int = BATCH, **processes: Any) -> TrainIterator:
    source, _ = open_training(config, "category")
    return TrainIterator(source, "category", config, batch_size=batch_size, seed=0, **processes)


def opened(config: DataConfig) -> Staged:
    source, _ = open_training(config, "category")
    assert isinstance(source, Staged)
    return source


def take(batches: TrainIterator, count: int) -> list:
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def test_every_epoch_sees_the_records_of_its_stage(config):
    taken = take(iterator(config), 2 * 2 + 3 + 2 * 5)
    epochs: dict[int, list] = {}
    for batch in taken:
        (epoch,) = set(batch.arrays["epoch"].tolist())
        epochs.setdefault(epoch, []).append(batch)
    assert {epoch: len(batches) for epoch, batches in epochs.items()} == {
        0: 2, 1: 2, 2: 3, 3: 5, 4: 5
    }  # fmt: skip
    for epoch, wanted in enumerate([EASY, EASY, MIDDLE | HARD, EASY | MIDDLE | HARD]):
        seen = [name for batch in epochs[epoch] for name in batch.record_ids]
        assert len(seen) == len(set(seen)) == len(wanted) // BATCH * BATCH
        assert set(seen) <= wanted
    by_category = [int(category_id(name)) for name in ("drusen", "hard_exudates")]
    assert {c for batch in epochs[2] for c in batch.arrays["category"].tolist()} == {*by_category}
    for batch in epochs[3]:
        texts = [f"drusen number {name[1:]}" for name in batch.record_ids]
        assert batch.arrays["category"].tolist() == [int(category_id(text)) for text in texts]


def test_resuming_anywhere_and_several_processes_change_nothing(config):
    whole = take(iterator(config), 14)
    for stop in (1, 3, 5, 9):  # within the first, second and third stage
        resumed = iterator(config)
        resumed.restore(stop)
        for want, got in zip(whole[stop:], take(resumed, 14 - stop), strict=True):
            assert (want.record_ids, want.index) == (got.record_ids, got.index)
            for name, array in want.arrays.items():
                np.testing.assert_array_equal(got.arrays[name], array, err_msg=name)
    shards = [
        take(iterator(config, process_index=process, process_count=2), 14) for process in (0, 1)
    ]
    for want, *parts in zip(whole, *shards, strict=True):
        assert want.record_ids == [name for part in parts for name in part.record_ids]


@pytest.mark.parametrize("stages", [(), ((2, 4), (3, 7), (None, 11))])
def test_epochs_count_the_batches_one_by_one(stages):
    made = [Stage(until, np.arange(size), "") for until, size in stages]
    epochs = Epochs(9, BATCH, made)
    sizes = [4, 4, 7, *[11] * 9] if stages else [9] * 12
    batches = [(epoch, at) for epoch, size in enumerate(sizes) for at in range(size // BATCH)]
    assert [epochs.locate(index) for index in range(len(batches))] == batches
    for epoch in range(len(sizes)):
        assert epochs.steps(epoch) == sum(size // BATCH for size in sizes[:epoch])
        assert len(epochs.order(epoch, np.random.default_rng(0))) == sizes[epoch]
    half = math.fsum(size // BATCH for size in sizes[:4]) + 0.5 * (sizes[4] // BATCH)
    assert epochs.steps(4.5) == half


def test_a_table_wins_over_categories(config, tmp_path, capsys):
    table = tmp_path / "levels.csv"
    table.write_text("record_id,level\ni0,3\ni2,1\n")
    source = opened(with_curriculum(config, table=str(table)))
    first, second, third = source.stages
    assert {source[i].record_id for i in first.records} == {*EASY - {"i0"}, "i2"}
    assert {source[i].record_id for i in second.records} == {*MIDDLE, *HARD - {"i2"}, "i0"}
    # Of the descriptions two have a level, the others the last one.
    assert {source[i].record_id for i in third.records} == EASY | MIDDLE | HARD
    said = capsys.readouterr().out
    assert "level 1: 4, level 2: 4, level 3: 3\n" in said
    assert "level 1: 1, level 3: 10; 9 have no level of their own and count as level 3" in said


def test_a_stage_may_see_all_records_together(config):
    everything = CurriculumStageConfig(levels=(1, 2, 3), records="all")
    source = opened(with_curriculum(config, stages=(everything,)))
    assert len(source) == len(source.stages[0].records) == 22


def test_another_curriculum_is_other_data(config, tmp_path):
    table = tmp_path / "levels.csv"
    table.write_text("record_id,level\ni0,2\n")
    assert iterator(config).identity == iterator(config).identity
    other = iterator(with_curriculum(config, table=str(table))).identity
    assert other != iterator(config).identity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("record_id,level\na,0\n", "row 2: level '0' is no whole number from 1 to 1000"),
        ("record_id,level\na,1.5\n", "row 2: level '1.5' is no whole number"),
        ("record_id,level\na,1\na,2\n", "row 3: this record has level 1 already"),
        ("record_id\na\n", "no column 'level'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / "levels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_levels(path)


def test_what_no_run_could_use_is_refused_in_a_sentence(config):
    with pytest.raises(UserError, match=r"captions has no curriculum\.csv beside .* give table"):
        open_training(with_curriculum(config, categories=()), "category")
    with pytest.raises(UserError, match=r"has no category 'drusn'.*drusen"):
        open_training(with_curriculum(config, categories=(("drusn",),)), "category")
    with pytest.raises(UserError, match=r"descriptions .* samples of pairs have none"):
        open_training(config, "pair")
    with pytest.raises(UserError, match="mix and curriculum both order the records"):
        dataclasses.replace(config, mix=MixConfig("captions", "train[:50%]"))
    with pytest.raises(UserError, match=r"stage 1 of 3 \(level 1\) .* 4 records, less than one"):
        iterator(config, batch_size=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ()}, "stages"),
        ({"stages": (CurriculumStageConfig(until=3),)}, "end with null, not .3."),
        ({"descriptions": None}, "stages of descriptions need descriptions"),
        ({"categories": (("a",), ("b", "a"))}, "gives a two levels"),
    ],
)
def test_impossible_curricula_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CURRICULUM, **changes)
