"""Two datasets in one stream: at their rates, whatever reads them and wherever it begins."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from written_datasets import write_dataset

from retfm_jax.config import (
    AugmentConfig,
    DataConfig,
    ImageConfig,
    MixConfig,
    TextConfig,
)
from retfm_jax.data import records
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.labeled import open_labeled
from retfm_jax.data.mixing import Mixed
from retfm_jax.data.pipeline import TrainIterator, open_training
from retfm_jax.data.segmented import open_segmented
from retfm_jax.errors import UserError
from retfm_jax.ranges import RangeError

WORDS = TextConfig(context_length=8, words=("<unk>", "leakage"))
CONFIG = DataConfig(
    dataset="angiograms", image=ImageConfig(16), text=WORDS, language="en",
    augment=AugmentConfig(flip="none", erasing_probability=0.0), threads=0,
    mix=MixConfig("experts"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_jpeg):
    root = tmp_path_factory.mktemp("mixed")

    def images(name, count, labels):
        return [
            records.image_example(
                f"{name}{number}", image=make_jpeg(number), caption={"en": f"leakage {number}"},
                labels=labels,
            )
            for number in range(count)
        ]  # fmt: skip

    write_dataset(root, "angiograms", {"train": images("a", 10, ["drusen"])}, kind="image")
    write_dataset(root, "experts", {"train": images("e", 4, ["normal"])}, kind="image")
    return root


def of_run(
    folder, config=CONFIG, batches: Sequence[int] = range(10), batch_size=4, kind="case", **more
):
    """Record ids of batches, each read by an iterator that begins there."""
    config = dataclasses.replace(config, data_dir=str(folder))
    source, _ = open_training(config, kind)
    read = TrainIterator(source, kind, config, batch_size=batch_size, seed=3, **more)
    found = []
    for index in batches:
        read.restore(index)
        found.append(next(read).record_ids)
    read.close()
    return found


def flat(batches):
    return [name for batch in batches for name in batch]


def test_turns_are_even_and_the_longer_set_is_seen_once(folder):
    epoch = flat(of_run(folder, batches=range(5)))
    assert [name[0] for name in epoch] == ["a", "e"] * 10
    longer, shorter = epoch[::2], epoch[1::2]
    assert sorted(longer) == sorted(f"a{number}" for number in range(10))
    counts = [shorter.count(f"e{number}") for number in range(4)]
    assert sorted(counts) == [2, 2, 3, 3]
    following = flat(of_run(folder, batches=range(5, 10)))
    assert following[::2] != longer
    assert sorted(following[::2]) == sorted(longer)


@pytest.mark.parametrize(("rate", "length"), [(0.5, 20), (0.2, 20), (0.25, 16), (0.8, 50)])
def test_an_epoch_holds_every_record_of_both_at_their_rates(folder, rate, length):
    source, _ = open_training(
        dataclasses.replace(CONFIG, data_dir=str(folder), mix=MixConfig("experts", rate=rate)),
        "case",
    )
    assert isinstance(source, Mixed)
    assert (len(source), source.epoch_length) == (14, length)
    order = source.order(np.random.default_rng(0))
    assert set(order.tolist()) == set(range(14))
    of_second = np.cumsum(order >= 10)
    assert np.abs(of_second - rate * np.arange(1, length + 1)).max() < 1
    for part in (order[order < 10], order[order >= 10]):
        assert np.ptp(np.unique(part, return_counts=True)[1]) <= 1


def test_batches_are_those_of_a_run_without_interruption_on_one_host(folder):
    whole = of_run(folder)
    assert [of_run(folder, batches=[index])[0] for index in (7, 2)] == [whole[7], whole[2]]
    halves = [of_run(folder, process_index=index, process_count=2) for index in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole


def test_other_kinds_of_samples_mix_as_well(folder):
    categories = dataclasses.replace(CONFIG, text=TextConfig(context_length=8))
    source, _ = open_training(dataclasses.replace(categories, data_dir=str(folder)), "category")
    make = get_kind("category").maker(categories, source.label_names)
    shown = {
        record.record_id[0]: make.training(record, np.random.default_rng(0))["category"]
        for record in source
    }
    assert shown["a"] != shown["e"]
    names = flat(of_run(folder, kind="photograph"))
    assert [name[0] for name in names] == ["a", "e"] * 20


def test_what_cannot_be_mixed_is_said(folder):
    config = dataclasses.replace(CONFIG, data_dir=str(folder))
    with pytest.raises(UserError, match=r"config.data.mix names angiograms train, which is the"):
        open_training(dataclasses.replace(config, mix=MixConfig("angiograms")), "case")
    with pytest.raises(UserError, match="classes and structures are learned from one dataset"):
        open_labeled(config)
    with pytest.raises(UserError, match="classes and structures are learned from one dataset"):
        open_segmented(config)
    with pytest.raises(RangeError, match="rate"):
        MixConfig("experts", rate=1.0)


def test_a_run_does_not_go_on_with_another_rate(folder):
    identities = []
    for rate in (0.5, 0.25):
        config = dataclasses.replace(
            CONFIG, data_dir=str(folder), mix=MixConfig("experts", rate=rate)
        )
        source, _ = open_training(config, "case")
        identities.append(TrainIterator(source, "case", config, batch_size=4, seed=0).identity)
    assert identities[0] != identities[1]
