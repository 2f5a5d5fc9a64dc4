"""Runs that learn to write reports: words, validation, kills, and the models of their workdirs."""

import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from written_datasets import write_dataset
from written_metrics import written_metrics

import retfm_jax
from retfm_jax.captioning import Search, write_reports
from retfm_jax.config import LoraConfig, TextConfig, load_config
from retfm_jax.data import records
from retfm_jax.data.cases import open_cases
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.images import decode, fit
from retfm_jax.data.kinds.case import placed
from retfm_jax.data.words import WordTokenizer, clean
from retfm_jax.errors import UserError
from retfm_jax.evaluation.caption_metrics import caption_metrics
from retfm_jax.experiments import finetuning
from retfm_jax.experiments.exporting import export_program
from retfm_jax.experiments.training import run_training
from retfm_jax.experiments.weights import export, import_weights
from retfm_jax.interop.word_files import read_words
from retfm_jax.runtime.checkpoints import load_network, whole_steps
from retfm_jax.trees import flatten

pytestmark = pytest.mark.usefixtures("one_device")

TINY = [
    "model.image.image_size=16", "model.image.patch_size=8", "model.image.width=16",
    "model.image.layers=1", "model.image.heads=2", "model.captioner.width=16",
    "model.captioner.mlp_width=16", "model.captioner.layers=1", "model.captioner.heads=2",
    "model.captioner.positions=16", "model.captioner.dropout=0.1", "data.image.size=16",
    "data.text.context_length=10", "data.threads=2", "data.augment.brightness=0",
    "train.batch_size=8", "train.epochs=2", "train.keep=10", "train.log_every=1",
    "train.checkpoint_every=1",
]  # fmt: skip
REPORTS = {"normal": "Normal fundus, {} eye.", "drusen": "Drusen in the {} eye, soft."}


def photograph(finding: str, seed: int) -> bytes:
    """A picture whose color is the finding."""
    color = {"normal": (180, 80, 40), "drusen": (90, 120, 60)}[finding]
    pixels = np.random.default_rng(seed).integers(0, 12, (20, 24, 3)) + np.array(color)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def patient(number: int) -> dict:
    """A patient of one or two eyes, of which every report speaks in two languages."""
    findings = [("normal", "drusen")[number // shift % 2] for shift in (1, 2)]
    sides = [("left", findings[0]), ("right", findings[1])][number % 5 == 4 :]
    text = " ".join(REPORTS[finding].format(side) for side, finding in sides)
    eyes = {side: photograph(finding, 2 * number) for side, finding in sides}
    return records.patient_example(
        f"p{number}", left=eyes.get("left"), right=eyes["right"], report={"en": text, "zh": "正常"}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`eyes`: sixteen patients for training, five for validation."""
    made = tmp_path_factory.mktemp("datasets")
    splits = {
        "train": [patient(number) for number in range(16)],
        "validation": [patient(number) for number in range(20, 25)],
    }
    write_dataset(made, "eyes", splits)
    return made


def config_for(root, *overrides):
    given = [*TINY, "data.dataset=eyes", f"data.data_dir={root}", *overrides]
    return load_config("caption_synthetic", given)


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """The workdir of a run that went to its end."""
    workdir = tmp_path_factory.mktemp("run") / "W"
    assert run_training(config_for(root), workdir)
    return workdir


@pytest.fixture(scope="module")
def model(finished):
    return retfm_jax.load(finished)


@pytest.fixture(scope="module")
def validation(model):
    return open_cases(model.data_config, ("validation",)).sources["validation"]


def test_the_workdir_is_a_model_with_the_words_of_its_training_reports(model):
    spoken = {word for text in REPORTS.values() for word in clean(text.format("left"))}
    assert set(model.words) == spoken | {"right", "<unk>"}
    assert model.method.vocabulary == len(model.words) + 1
    assert "reports: of 11 words" in repr(model)
    assert model.method.config.images == "all"


def test_what_is_read_of_reports_is_said(root, tmp_path):
    said = finetuning.prepare(config_for(root, "data.text.context_length=8"), tmp_path).said
    assert "cases: train 16, validation 5; words: 11, each at least 3 times in training" in said
    lengths = [len(clean(patient(number)["report"]["en"])) for number in range(16)]
    cut = sum(length > 6 for length in lengths)
    assert cut > 0
    expected = f"{cut} of 16 training reports have more than 6 words (up to {max(lengths)})"
    assert any(expected in sentence for sentence in said)


def test_words_of_a_language_and_words_that_are_given(root, tmp_path):
    chinese = finetuning.prepare(config_for(root, "data.language=zh"), tmp_path).config
    assert set(chinese.data.text.words) == {"正", "常", ".", "<unk>"}
    mixed = finetuning.prepare(config_for(root, "data.language=mixed"), tmp_path).config
    assert {"正", "drusen"} < set(mixed.data.text.words)
    given = finetuning.prepare(config_for(root, "data.text.words=['<unk>','eye']"), tmp_path)
    assert given.config.model.vocabulary == 3
    assert any("are written as <unk>" in each for each in given.said)


def test_words_of_a_dataset_that_is_mixed_in_are_learned_or_not(root, tmp_path):
    says = {"en": "Cotton wool spots."}
    image = photograph("drusen", 0)
    more = [
        records.image_example(
            f"m{number}", image=image, patient_id="m", case_id=visit, caption=says
        )
        for number, visit in enumerate("1123")
    ]
    write_dataset(tmp_path, "more", {"train": more}, kind="image")
    mixed = f"data.mix.dataset={tmp_path / 'more' / '1.0.0'}"
    made = finetuning.prepare(config_for(root, mixed), tmp_path / "W")
    assert "cotton" in made.config.data.text.words
    assert made.data is not None
    source = made.data.sources["train"]
    assert [source[16 + index].record_id for index in range(3)] == ["m/1", "m/2", "m/3"]
    assert source.report(18)["en"] == says["en"]
    plain = finetuning.prepare(config_for(root, mixed, "data.mix.words=false"), tmp_path / "W")
    alone = finetuning.prepare(config_for(root), tmp_path / "W")
    assert plain.config.data.text.words == alone.config.data.text.words


def test_low_rank_updates_have_a_captioner_beside_them(root, tmp_path):
    config = finetuning.prepare(config_for(root), tmp_path).config
    assert finetuning.prepare(config_for(root, "lora={}"), tmp_path).config.lora == LoraConfig(
        trained=("captioner", "places")
    )
    assert config.lora is None


def test_the_best_on_validation_is_kept_and_is_worth_what_was_measured(finished, model, validation):
    lines = [line for line in written_metrics(finished) if "eval/clinical_f1" in line]
    scores = {line["step"]: line["eval/clinical_f1"] for line in lines}
    assert len(scores) == 2
    (best,) = whole_steps(finished / "best")
    (line,) = (line for line in lines if line["step"] == best)
    found = caption_metrics(model, validation)
    for name, value in found.items():
        np.testing.assert_allclose(line[f"eval/{name}"], value, rtol=1e-5)


def prepared(model, cases, texts):
    """The batch of cases and their reports, as training sees them without augmentation."""
    config, tokenizer = model.data_config, WordTokenizer(model.data_config.text)
    images = [
        {place: fit(decode(x, "x"), config.image) for place, x in enumerate(case) if x}
        for case in cases
    ]
    rows = [placed(each, 2, config) for each in images]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    tokens = np.stack([tokenizer.row(text) for text in texts])
    return prepare({**batch, "tokens": tokens}, config.image)


def test_the_loss_of_validation_is_the_training_objective(model, validation):
    cases = [validation[row].images for row in range(len(validation))]
    texts = [validation.report(row)["en"] for row in range(len(validation))]
    found = caption_metrics(model, validation)["loss"]
    whole = model.losses(prepared(model, cases, texts))["loss_total"]
    np.testing.assert_allclose(found, whole, rtol=1e-5)


def test_a_run_that_was_killed_ends_with_the_same_bits(finished, root, tmp_path):
    """As after a kill in the middle of an epoch: later checkpoints are missing."""
    workdir = tmp_path / "W"
    shutil.copytree(finished, workdir)
    steps = whole_steps(workdir / "checkpoints")
    assert steps == [1, 2, 3, 4]
    for step in steps[1:]:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    shutil.rmtree(workdir / "best")
    assert run_training(config_for(root), workdir)
    for place in ("", "checkpoints/4"):
        ours, theirs = (flatten(load_network(each / place)[0]) for each in (workdir, finished))
        for path, leaf in theirs.items():
            np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
    assert written_metrics(workdir) == written_metrics(finished)
    assert (workdir / "config.json").read_bytes() == (finished / "config.json").read_bytes()


def test_a_run_does_not_resume_with_other_words(finished, root):
    with pytest.raises(UserError, match="are 1 other words than the run's"):
        finetuning.prepare(config_for(root, "data.text.words=['<unk>']"), finished)


def test_one_case_and_many_and_one_device_and_all_write_the_same(model, validation):
    cases = [validation[row].images for row in range(len(validation))]
    many = model.captions(cases * 40)
    assert many[:5] == many[-5:]
    assert [model.caption(case) for case in cases[:2]] == many[:2]
    streamed = list(write_reports(model, iter(cases)))
    assert [each.text for each in streamed] == many[:5]


def test_the_log_probability_is_that_of_the_words_whatever_the_penalty(model, validation):
    search = Search(length_penalty=1.0)
    case = validation[0].images
    ids = {word: number for number, word in enumerate(model.words, start=1)}
    (found,) = write_reports(model, [case], search)
    tokens = np.zeros((1, len(found.words) + 2), np.int32)
    tokens[0, 1 : len(found.words) + 1] = [ids[word] for word in found.words]
    ended = len(found.words) < model.data_config.text.context_length
    batch = prepared(model, [case], [""]) | {"tokens": tokens if ended else tokens[:, :-1]}
    loss, words = jax.jit(model.method.report_losses)(model.params, model.state, batch)
    assert int(words[0]) == len(found.words) + ended
    np.testing.assert_allclose(found.log_probability, -loss[0] * words[0], rtol=1e-4)


def test_a_missing_eye_and_a_broken_photograph_move_no_other(model, tmp_path):
    right = photograph("drusen", 5)
    alone, other = model.captions([[None, right], [right, None]])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(right[:60])
    (found,) = write_reports(model, [[broken, right]])
    assert found.text == alone
    assert len(found.unread) == 1
    assert str(broken) in found.unread[0]
    three = [b"", *([right] * 3)]
    assert model.caption(three)
    assert isinstance(other, str)


def test_cases_that_cannot_be_used_are_named(model, tmp_path):
    good = photograph("normal", 3)
    unusable: list = []
    found = model.captions([[good], [None, b""], [tmp_path / "no.jpg"]], unusable=unusable)
    assert found[0]
    assert found[1:] == ["", ""]
    assert [number for number, _ in unusable] == [1, 2]
    assert "case 1 has no photograph that can be used: it has none" in unusable[0][1]
    assert "no.jpg does not exist" in unusable[1][1]
    with pytest.raises(UserError, match="case 0 has no photograph"):
        model.captions([[None]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams must be a whole number from 1 to 12, not 0"),
        ({"length": 17}, "length must be a whole number from 1 to 16, not 17"),
        ({"length_penalty": -1}, "length_penalty must be a number from 0 to 10"),
    ],
)
def test_options_out_of_their_range_are_named(model, options, message):
    with pytest.raises(UserError, match=message):
        model.caption(photograph("normal", 3), **options)


def test_a_dataset_without_a_validation_split_is_named_first(root, tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.eval_split dev, .* no split 'dev'"):
        finetuning.prepare(config_for(root, "data.eval_split=dev"), tmp_path)


def test_weights_go_out_and_in_with_their_words_beside_them(finished, model, tmp_path):
    case, out = [photograph("drusen", 5), photograph("normal", 6)], tmp_path / "captioner.pth"
    said = model.caption(case)
    export(finished, "ffa_captioner", out)
    beside = tmp_path / "captioner.words.json"
    assert json.loads(beside.read_text())["words"] == list(model.words)
    back = import_weights(out, None, tmp_path / "in", 2)
    assert back.words == retfm_jax.load(tmp_path / "in").words == model.words
    assert back.data_config.text == model.data_config.text
    for path, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(flatten(back.params)[path], leaf, err_msg=path)
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({word: number for number, word in enumerate(model.words, 1)}))
    beside.unlink()
    silent = retfm_jax.load(out)
    assert "has no words, and there is no captioner.words.json beside it" in silent.notes[-1]
    with pytest.raises(UserError, match="its weights do not hold, and none are given"):
        silent.caption(case)
    assert retfm_jax.model.load_weights(out, words=ids).words == model.words
    export(finished, "hub_folder", tmp_path / "hub")
    for place in (finished, tmp_path / "hub"):
        assert retfm_jax.load(place).caption(case) == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"a": 1, "b": 3}, "holds no list of words"),
        ("a b", "holds no list of words"),
        (["a", "<unk>"], "has 2 words, and the network writes 11"),
        ([*"abcdefghijk"], "lacks <unk>"),
        ([*"aabcdefghi", "<unk>"], "names a twice"),
        ({"words": [*"abcdefghij", "<unk>"], "cleaning": "wet"}, "cleaning"),
    ],
)
def test_lists_of_words_that_do_not_fit_are_refused(words, message, tmp_path):
    (tmp_path / "words.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match=message):
        read_words(tmp_path / "words.json", TextConfig(), 12)


def test_reports_are_written_by_pytorch_alone(finished, tmp_path):
    with pytest.raises(UserError, match="word by word in a search, of which there is no onnx"):
        export_program(finished, "onnx", tmp_path / "out")


def test_samples_that_the_network_does_not_take_are_refused(root, tmp_path):
    for override, message in (
        ("data.case_images=9", "more than the network tells apart, 8"),
        ("data.text.context_length=17", "more than the network has positions, 16"),
    ):
        with pytest.raises(UserError, match=message):
            finetuning.prepare(config_for(root, override), tmp_path)
