"""Batch k is a function of configuration, data and seed: nothing else changes it."""

import copy
import dataclasses
import logging

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from retfm_jax.config import DataConfig, ExpertConfig, ImageConfig, TextConfig
from retfm_jax.data import records
from retfm_jax.data.pipeline import (
    HostBatch,
    TrainIterator,
    check_identity,
    open_training,
)
from retfm_jax.data.prefetch import device_batches
from retfm_jax.errors import UserError
from retfm_jax.knowledge.vocabulary import load_vocabulary

BATCH = 4


@pytest.fixture
def config(data_dir) -> DataConfig:
    return DataConfig(
        dataset="pairs",
        data_dir=str(data_dir),
        language="mixed",
        image=ImageConfig(size=16),
        text=TextConfig(context_length=12),
        threads=2,
    )


@pytest.fixture
def keepfit_config(config) -> DataConfig:
    return dataclasses.replace(config, expert=ExpertConfig("captions"), language="en")


def iterator(config: DataConfig, kind: str = "patient", seed: int = 0, **options) -> TrainIterator:
    source, expert = open_training(config, kind)
    options = {"batch_size": BATCH} | options
    return TrainIterator(source, kind, config, seed=seed, expert=expert, **options)


def take(batches: TrainIterator, count: int) -> list[HostBatch]:
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_same(ours: list[HostBatch], theirs: list[HostBatch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.record_ids, one.index) == (other.record_ids, other.index)
        assert one.arrays.keys() == other.arrays.keys()
        for name, value in one.arrays.items():
            np.testing.assert_array_equal(value, other.arrays[name], err_msg=name)


def join(parts: list[HostBatch]) -> HostBatch:
    arrays = {
        name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays
    }
    return HostBatch(arrays, [name for part in parts for name in part.record_ids], parts[0].index)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batches(keepfit_config, processes):
    alone = take(iterator(keepfit_config, "category"), 7)
    shards = [
        take(
            iterator(keepfit_config, "category", process_index=process, process_count=processes),
            7,
        )
        for process in range(processes)
    ]
    assert_same([join(list(parts)) for parts in zip(*shards, strict=True)], alone)


@pytest.mark.parametrize("changes", [{"threads": 0}, {"threads": 8}, {"workers": 2}])
def test_threads_and_workers_change_nothing(config, changes):
    changed = dataclasses.replace(config, **changes)
    assert_same(take(iterator(changed), 7), take(iterator(config), 7))


def test_resuming_anywhere_equals_going_on(keepfit_config):
    undisturbed = take(iterator(keepfit_config, "category"), 12)
    for stop in (1, 6, 9):
        batches = iterator(keepfit_config, "category")
        before = take(batches, stop)
        state = batches.state()
        assert state == stop
        resumed = iterator(keepfit_config, "category")
        resumed.restore(state)
        assert_same(before + take(resumed, 12 - stop), undisturbed)


def test_every_record_stands_once_in_an_epoch_up_to_the_remainder(config):
    batches = iterator(config)
    assert batches.epochs.steps(1) == 5
    epochs = [[name for _ in range(5) for name in next(batches).record_ids] for _ in range(12)]
    batches.close()
    for names in epochs:
        assert len(set(names)) == 20
    assert len({tuple(names) for names in epochs}) == 12  # every epoch is a new order
    assert len({name for names in epochs for name in names}) == 23  # none is left out for ever


def test_another_seed_gives_another_order_and_the_same_seed_the_same(config):
    first, again, other = (take(iterator(config, seed=seed), 5) for seed in (0, 0, 1))
    assert_same(first, again)
    assert [batch.record_ids for batch in first] != [batch.record_ids for batch in other]


def test_an_image_is_augmented_anew_every_epoch(config):
    pixels: dict[str, list[bytes]] = {}
    for batch in take(iterator(config), 15):
        for name, image in zip(batch.record_ids, batch.arrays["image_left"], strict=True):
            if image.any():
                pixels.setdefault(name, []).append(image.tobytes())
    # On pictures of 40 x 48 pixels two crops may be the same by chance.
    repeated = sum(len(seen) - len(set(seen)) for seen in pixels.values())
    assert repeated < 0.2 * sum(map(len, pixels.values()))


def test_arrays_are_those_of_the_methods(config, keepfit_config):
    image, tokens = (BATCH, 16, 16, 3), (BATCH, 12)
    (patients,), (images,), (mixed,) = (
        take(iterator(config, "patient"), 1),
        take(iterator(config, "image"), 1),
        take(iterator(keepfit_config, "category"), 1),
    )

    def shapes(batch: HostBatch) -> dict:
        return {name: (value.shape, value.dtype.name) for name, value in batch.arrays.items()}

    assert shapes(patients) == {
        "image_left": (image, "uint8"),
        "image_right": (image, "uint8"),
        "tokens": (tokens, "int32"),
        "has_left": ((BATCH,), "bool"),
        "has_right": ((BATCH,), "bool"),
    }
    assert shapes(images) == {
        "image": (image, "uint8"),
        "tokens": (tokens, "int32"),
        "labels": ((BATCH, len(load_vocabulary().ids)), "float32"),
    }
    assert shapes(mixed) == {
        "image": (image, "uint8"),
        "tokens": (tokens, "int32"),
        "category": ((BATCH,), "int32"),
        "epoch": ((BATCH,), "int32"),
        "expert_image": (image, "uint8"),
        "expert_tokens": (tokens, "int32"),
    }


def test_experts_are_drawn_with_replacement(keepfit_config):
    batches = take(iterator(keepfit_config, "category"), 12)
    drawn = [row.tobytes() for batch in batches for row in batch.arrays["expert_tokens"]]
    assert len(set(drawn)) == 11
    gaps = {drawn[start : start + 11].count(row) for row in drawn for start in range(0, 44, 11)}
    assert gaps - {1}  # an order without replacement would show each once in eleven draws


def test_a_tokenizer_is_known_by_what_it_makes_of_texts(config, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "drusen", "眼"]
    identities = {}
    for name, tokens in (("here", words), ("there", words), ("other", [*words, "cup"])):
        file = tmp_path / f"{name}.txt"
        file.write_text("\n".join(tokens), encoding="utf-8")
        text = dataclasses.replace(config.text, tokenizer=str(file))
        identities[name] = iterator(dataclasses.replace(config, text=text)).identity
    check_identity(identities["here"], identities["there"])
    with pytest.raises(UserError, match=r"data\.tokenizer: "):
        check_identity(identities["here"], identities["other"])
    old = {name: value for name, value in identities["here"].items() if name != "tokenizer"}
    check_identity(old, identities["here"])  # version 0.1's has the path alone
    with pytest.raises(UserError, match=r"data\.config\.text\.tokenizer: .*here"):
        check_identity(old, identities["there"])


def test_the_identity_tells_what_is_in_the_batches(config, keepfit_config):
    base = iterator(config)
    faster = dataclasses.replace(config, workers=3, threads=1, prefetch=9)
    assert iterator(faster).identity == base.identity
    others = [
        iterator(dataclasses.replace(config, language="en")),
        iterator(dataclasses.replace(config, image=ImageConfig(size=17))),
        iterator(dataclasses.replace(config, train_split="train[:20]")),
        iterator(config, seed=1),
        iterator(config, batch_size=5),
        iterator(config, "image"),
        iterator(keepfit_config, "category"),
    ]
    for other in others:
        with pytest.raises(UserError, match="another data configuration"):
            check_identity(base.identity, other.identity)
    check_identity(base.identity, iterator(faster).identity)
    with pytest.raises(UserError, match=r"data\.config\.language: 'mixed' in the checkpoint, 'en'"):
        check_identity(base.identity, others[0].identity)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_said_once_and_stop_nothing(
    tmp_path, make_dataset, make_jpeg, config, caplog, workers
):
    examples = [
        records.patient_example(f"p{n}", left=make_jpeg(n), right=make_jpeg(n), report={"en": "a"})
        for n in range(6)
    ]
    examples[1]["left"] = examples[1]["left"][:80]
    examples[2] |= {"left": b"text", "right": examples[2]["right"][:80]}
    make_dataset(tmp_path, "broken", {"train": examples})
    config = dataclasses.replace(config, dataset="broken", data_dir=str(tmp_path), workers=workers)
    batches = iterator(config, batch_size=3)
    with caplog.at_level(logging.WARNING):
        taken = take(batches, 8)
    for batch in taken:
        assert "p2" not in batch.record_ids
        assert len(set(batch.record_ids)) == 3
        assert (batch.arrays["has_left"] | batch.arrays["has_right"]).all()
        for row, name in enumerate(batch.record_ids):
            if name == "p1":
                assert batch.arrays["has_left"][row] != batch.arrays["has_right"][row]
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(text.split(" (")[0] for text in messages) == [
        "p1/left cannot be decoded and counts as missing",
        "p2 of broken cannot be decoded and is left out",
    ]


def test_a_run_without_any_readable_image_ends_with_a_message(tmp_path, make_dataset, config):
    examples = [records.patient_example(f"p{n}", left=b"no", right=None) for n in range(3)]
    make_dataset(tmp_path, "broken", {"train": examples})
    config = dataclasses.replace(config, dataset="broken", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="records in a row have no readable image"):
        next(iterator(config, batch_size=2))


def test_what_cannot_be_batched_is_refused(config, keepfit_config):
    with pytest.raises(UserError, match="23 records, less than one batch of 24"):
        iterator(config, batch_size=24)
    with pytest.raises(UserError, match="does not divide among 3 processes"):
        iterator(config, process_count=3)
    with pytest.raises(UserError, match="holds single images"):
        iterator(dataclasses.replace(config, dataset="captions"))


def test_a_category_set_goes_without_experts_where_none_are_named(config):
    (batch,) = take(iterator(config, "category"), 1)
    assert set(batch.arrays) == {"image", "tokens", "category", "epoch"}


def test_batches_come_to_the_mesh_in_order_and_ahead(config):
    rows = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    host = take(iterator(config), 5)
    source = iterator(config)
    ahead = device_batches(source, lambda arrays: jax.device_put(arrays, rows), depth=2)
    for want in host:
        got = next(ahead)
        assert (got.index, got.record_ids) == (want.index, want.record_ids)
        assert got.arrays["tokens"].sharding.is_equivalent_to(rows, 2)
        for name, value in want.arrays.items():
            np.testing.assert_array_equal(got.arrays[name], value)
    ahead.close()
    assert source.state() > 5  # it has run ahead, so checkpoints take a batch's index
    source.close()


def test_errors_of_the_reader_arrive_where_the_batch_would_have_been(config):
    def failing():
        yield HostBatch({"tokens": np.zeros((4, 3), np.int32)}, ["a"], 0)
        raise UserError("the disk is gone")

    batches = device_batches(failing(), jax.device_put)
    assert next(batches).record_ids == ["a"]
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)


def test_an_entry_that_a_version_did_not_have_is_its_default():
    identity = {"config": dataclasses.asdict(DataConfig()), "tokenizer": "x"}
    before = copy.deepcopy(identity)
    del before["config"]["augment"]["mixup"], before["config"]["image"]["field_of_view"]
    check_identity(before, identity)
    identity["config"]["augment"]["mixup"] = 0.8
    with pytest.raises(UserError, match=r"mixup: 0\.0 in the checkpoint, 0\.8 now"):
        check_identity(before, identity)
