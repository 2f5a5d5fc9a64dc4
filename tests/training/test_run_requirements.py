"""What a run would miss hours later is missed before its network is made."""

import contextlib
import types

import pytest

from retfm_jax.config import load_config
from retfm_jax.data import sources
from retfm_jax.errors import UserError
from retfm_jax.training.requirements import check_splits, check_structures, check_vocabularies


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("quickstart", ["model.text.vocab_size=21127"], r"has 21128 tokens, .* 21127:"),
        ("vilref_synthetic", ["model.num_labels=7"], r"num_labels is 7, .* has \d+ conditions"),
        ("vilref_synthetic", ["model.num_labels=0"], r"num_labels is 0, .* has \d+ conditions"),
        ("quickstart", ["data.text.tokenizer=no/such/vocab.txt"], r"no/such/vocab\.txt"),
    ],
)
def test_vocabularies_that_do_not_fit_are_refused_with_both_numbers(config, overrides, message):
    with pytest.raises(UserError, match=message):
        check_vocabularies(load_config(config, overrides))


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("quickstart", []),
        ("quickstart", ["model.text.vocab_size=30000"]),
        ("vilref_synthetic", []),
        ("vilref_synthetic", ["model.num_labels=0", "model.use_labels=false"]),
    ],
)
def test_vocabularies_that_fit_pass(config, overrides):
    check_vocabularies(load_config(config, overrides))


@pytest.mark.parametrize(
    ("config", "there", "ok"),
    [
        (["model.structures=['vessels']"], ("vessels",), True),
        ([], ("vessels",), True),
        ([], ("disc", "cup"), False),
        (["model.structures=['cup', 'disc']"], ("disc", "cup"), False),
        (["model.structures=['disc']"], ("disc", "cup"), False),
    ],
)
def test_structures_are_those_of_the_masks_in_their_order(config, there, ok):
    source = types.SimpleNamespace(structures=there)
    said = contextlib.nullcontext()
    if not ok:
        said = pytest.raises(UserError, match=r'show disc, cup: set it to \["disc", "cup"\], or')
    with said:
        check_structures(load_config("segment", config), source)


def test_networks_without_structures_need_none():
    check_structures(load_config("quickstart"), types.SimpleNamespace())


def test_a_plan_needs_no_files_of_the_machine_that_it_is_for():
    config = load_config("quickstart", ["data.text.tokenizer=no/such/vocab.txt"])
    check_vocabularies(config, present=True)


@pytest.mark.parametrize(
    ("there", "overrides", "message"),
    [
        (
            {"train": 9},
            [],
            r"config\.data\.eval_split validation, which is evaluated on the way",
        ),
        ({"train": 9, "validation": 0}, [], r"eval_split validation of synthetic_fundus is empty"),
        ({"validation": 3}, [], r"no split 'train'"),
        (
            {"train": 9, "validation": 3},
            ['data.expert={"dataset": "synthetic_fundus", "split": "experts"}'],
            r"no split 'experts'",
        ),
        ({"train": 9}, ["train.evaluate_every=0"], None),
        ({"train": 9, "validation": 3}, [], None),
    ],
)
def test_a_split_that_a_run_will_open_is_there_before_it_begins(
    monkeypatch, there, overrides, message
):
    def open_dataset(name, split, data_dir):
        if split not in there:
            raise UserError(f"no split {split!r}")
        return range(there[split])

    monkeypatch.setattr(sources, "open_dataset", open_dataset)
    config = load_config("quickstart", ["train.evaluate_every=5", *overrides])
    if message is None:
        check_splits(config)
    else:
        with pytest.raises(UserError, match=message):
            check_splits(config)
