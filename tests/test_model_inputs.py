"""A table of wrong inputs for every public entry point of a model, and the right ones beside it."""

import io
import pathlib

import jax
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import retfm_jax
from retfm_jax.config import DataConfig, ExperimentConfig, ImageConfig, TextConfig
from retfm_jax.errors import UserError
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.wording import learn_wording
from retfm_jax.methods import get_method_class
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.resnet import ResNetConfig
from retfm_jax.models.vit import ViTConfig

SIZE, LENGTH, WORDS = 16, 8, 21128


def build(name):
    text = BertConfig(WORDS, width=16, layers=2, heads=2, mlp_width=16, positions=12)
    image = ViTConfig(SIZE, 8, 16, 1, heads=2)
    cls = get_method_class(name)
    if name == "keepfit":
        sizes = cls.config_class(image=ResNetConfig((1, 1, 1, 1), 4), text=text, embed_dim=8)
    else:
        sizes = cls.config_class(image=image, text=text, embed_dim=8)
    method = cls(sizes)
    rng = np.random.default_rng(0)
    # Compiling the networks' own initialization takes longer than all these tests.
    params, state = jax.tree.map(
        lambda leaf: rng.uniform(0.05, 0.2, leaf.shape).astype(leaf.dtype),
        jax.eval_shape(method.init, jax.random.key(0)),
    )
    data = DataConfig(image=ImageConfig(size=SIZE), text=TextConfig(context_length=LENGTH))
    return retfm_jax.RetinalModel(method, params, state, ExperimentConfig(name, sizes, data))


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in ("retclip", "vilref", "keepfit")}


@pytest.fixture(scope="module")
def model(models):
    return models["vilref"]


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pixels):
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "text.png").write_text("no image")
    return folder


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_one_image_in_every_form_is_one_row(model, folder, pixels):
    expected = model.encode_images([pixels])
    path = folder / "a.png"
    forms = {
        "path": path,
        "name": str(path),
        "NumPy name": np.str_(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "PIL": Image.open(path),
        "PIL with alpha": Image.open(path).convert("RGBA"),
        "array": pixels,
        "float": pixels / 255,
        "half": (pixels / 255).astype(np.float32),
        "opaque": np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
        "JAX": jax.numpy.asarray(pixels),
        "torch": torch.from_numpy(pixels),
        "batch": pixels[None],
        "list": [path],
        "tuple": (pixels,),
        "generator": (each for each in [path]),
        "column": pd.Series([str(path)], index=[7]),
        "array of names": np.array([str(path)]),
        "array of objects": np.array([path], object),
        "array of arrays": np.array([pixels, pixels[:9]], object)[:1],
        "values of a dict": {"a": path}.values(),
        "Fortran": np.asfortranarray(pixels),
        "not contiguous": np.repeat(pixels, 2, axis=0)[::2],
        "big-endian": (pixels / 255).astype(">f4"),
        "torch half": torch.from_numpy(pixels / 255).half(),
        "torch with gradient": torch.from_numpy(pixels / 255).requires_grad_(),
        "masked, nothing hidden": np.ma.array(pixels),
        "rounded beyond the ends": (pixels / 255) * 1.0002 - 1e-5,
        "CMYK": Image.open(path).convert("CMYK"),
    }
    for name, form in forms.items():
        np.testing.assert_array_equal(model.encode_images(form), expected, err_msg=name)
    mixed = model.encode_images([path, pixels, Image.fromarray(pixels), png(pixels)])
    assert mixed.shape == (4, 8)
    assert model.image_features(path).shape == (1, 16)


def test_gray_is_three_equal_channels_and_transparent_is_black(model, pixels):
    gray = pixels[..., 0]
    expected = model.encode_images([np.repeat(gray[..., None], 3, axis=2)])
    fractions = Image.fromarray((gray / 255).astype(np.float32))
    deep = gray.astype(np.uint16) * 257
    for form in (
        *(gray, gray[..., None], gray / 255, Image.fromarray(gray), fractions, np.asmatrix(gray)),
        *(Image.fromarray(gray).convert(mode) for mode in ("LA", "PA", "I", "F", "RGBA")),
        *(Image.fromarray(gray).convert("LA").convert("La"), Image.fromarray(deep)),
    ):
        np.testing.assert_array_equal(model.encode_images(form), expected)
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :9] = 0
    black = pixels.copy()
    black[:, :9] = 0
    clear = np.dstack([pixels, alpha])
    for form in (clear, clear / 255, Image.fromarray(clear), png(clear)):
        np.testing.assert_array_equal(model.encode_images(form), model.encode_images(black))


def test_bfloat16_is_read_as_the_floating_point_that_it_is(model, pixels):
    half = torch.from_numpy(pixels / 255).bfloat16()
    expected = model.encode_images(half.float())
    for form in (half, [half], jax.numpy.asarray(pixels / 255, jax.numpy.bfloat16)):
        np.testing.assert_array_equal(model.encode_images(form), expected)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_arrays_without_values_of_their_own_are_refused(model, pixels):
    for image, message in (
        (torch.ones(5, 5, 3, device="meta"), "has no values that NumPy can take"),
        (torch.ones(5, 5).to_sparse(), "has no values that NumPy can take"),
        (jax.random.key(0), "has no values that NumPy can take"),
        (np.ma.array(pixels, mask=pixels > 99), r"masked values.*\.filled\(0\)"),
    ):
        for images in (image, [pixels, image]):
            with pytest.raises(UserError, match=message):
                model.encode_images(images)
    with pytest.raises(UserError, match=r"number 1 is traced by jax\.jit"):
        jax.jit(lambda image: model.encode_images([pixels, image]))(pixels)


def test_a_photograph_that_lies_on_its_side_is_turned_as_its_file_is(model, tmp_path, pixels):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    np.testing.assert_array_equal(model.encode_images(path), model.encode_images(Image.open(path)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there are no images"),
        ((), "there are no images"),
        (iter([]), "there are no images"),
        (np.zeros((0, 8, 8, 3), np.uint8), "there are no images"),
        (None, "not as None"),
        (7, "not as int 7"),
        ({"a": "b.jpg"}, "as a list"),
        ({"b.jpg"}, "as a list"),
        (pd.DataFrame({"image": ["a.jpg"]}), r"one column of the table"),
        ([None], "number 0 is None"),
        (["FILE", None], "number 1 is None"),
        (["FILE", float("nan")], "number 1 is float nan"),
        (pd.Series(["FILE", None]), "number 1 is"),
        ([["FILE"]], "number 0 is list"),
        ([3], "number 0 is int 3"),
        (["FOLDER"], "is a folder, not an image"),
        (["FOLDER/absent.png"], "does not exist"),
        (["FOLDER/text.png"], "not a readable image"),
        (["nul\0byte.png"], "is no path: it holds a NUL character"),
        ([b""], "not a readable image"),
        ("", "number 0 is an empty path"),
        (["FILE", " "], "number 1 is an empty path"),
        (io.BytesIO(b"x"), r"an open file: call its \.read\(\)"),
        ([io.BytesIO(b"x")], "number 0 is BytesIO"),
        (np.array(None, object), "not as ndarray"),
        (np.array("a.png"), "not as ndarray"),
        (np.array(3), r"not \(\)"),
        ([pd.NA], "number 0 is NAType"),
        (zip(["FILE"], ["FILE"], strict=True), "number 0 is tuple"),
        ([[[1, 2], [3, 4]]], "number 0 is list"),
        ([np.zeros((1, 20, 24, 3), np.uint8)], r"not \(1, 20, 24, 3\)"),
        (np.zeros((4, 4), "datetime64[s]"), "not datetime64"),
        (np.broadcast_to(np.uint8(7), (200_000, 200_000, 3)), "images have 1 to"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels; images have 1 to"),
        (b"letters", "not a readable image"),
        (np.zeros((3, 20, 24), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 3, 20, 24), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((9, 20, 24), np.uint8), "several gray images"),
        (np.zeros((20, 24, 2), np.uint8), r"not \(20, 24, 2\)"),
        (np.zeros((20,), np.uint8), r"not \(20,\)"),
        (np.zeros((1, 1, 20, 24, 3), np.uint8), r"not \(1, 1, 20, 24, 3\)"),
        (np.zeros((0, 24, 3), np.uint8), "0 x 24 pixels"),
        (np.full((20, 24, 3), 200, np.int64), r"int64 from 200 to 200.*astype\('uint8'\)"),
        (np.full((20, 24), 4000, np.uint16), "uint16 from 4000 to 4000"),
        (np.full((20, 24, 3), -3, np.int8), "int8 from -3 to -3"),
        (np.ones((20, 24, 3), bool), "not bool"),
        (np.ones((20, 24, 3), np.uint8), "values are 0 and 1 in uint8"),
        (np.ones((20, 24, 3), complex), "not complex128"),
        (np.full((20, 24, 3), 200.0), "float64 from 200 to 200.*divide it by 255"),
        (np.full((20, 24, 3), -1.5), "from -1.5 to -1.5.*normalized"),
        (np.full((20, 24, 3), np.nan), "not finite"),
        (np.full((20, 24, 3), np.inf), "not finite"),
    ],
)
def test_what_is_no_image_is_refused(model, folder, images, message):
    def place(value):
        if isinstance(value, str) and value.startswith("F"):
            return value.replace("FOLDER", str(folder)).replace("FILE", str(folder / "a.png"))
        return value

    if isinstance(images, list):
        images = [place(value) for value in images]
    elif isinstance(images, pd.Series):
        images = images.map(place)
    for encode in (model.encode_images, model.image_features):
        if not hasattr(images, "__next__"):
            with pytest.raises(UserError, match=message):
                encode(images)
    with pytest.raises(UserError, match=message):
        model.zero_shot(images, ["normal", "drusen"])


def test_one_text_in_every_form_is_one_row(model):
    text = "Left eye: hard exudates."
    expected = model.encode_texts([text])
    forms = (
        text, np.str_(text), (text,), np.array([text]), np.array(text, object)[None],
        pd.Series([text], index=["x"]), (each for each in [text]),
    )  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(model.encode_texts(form), expected)
    assert model.encode_texts(["drusen", text]).shape == (2, 8)


@pytest.mark.parametrize(
    "odd", ["a\0b", "lone \ud800 surrogate", "\ud83d\ude00", "\x1b[31mred", "字"]
)
def test_odd_characters_are_texts(model, odd):
    assert np.isfinite(model.encode_texts(odd)).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "there are no texts"),
        (iter(()), "there are no texts"),
        (None, "not as None"),
        (3, "not as int"),
        (b"drusen", "not bytes"),
        ([b"drusen"], "number 0 is bytes"),
        (["drusen", None], "number 1 is None"),
        (pd.Series(["drusen", None]), "number 1 is"),
        (["drusen", float("nan")], "number 1 is float nan"),
        ([1.0], "number 0 is float"),
        ([["drusen"]], "number 0 is list"),
        ([""], "number 0 is empty"),
        (" \n", "number 0 is empty"),
        (["drusen", "\u200b\ufeff\u202e\0"], "number 1 is empty"),
        (np.array("drusen"), "not as ndarray"),
        (io.StringIO("drusen"), "an open file"),
        ([pd.NA], "number 0 is NAType"),
        (np.array([["a", "b"]]), "number 0 is ndarray"),
        ({"drusen"}, "as a list"),
        ({"drusen": 1}, "as a list"),
        (pathlib.Path("report.txt"), "not as"),
    ],
)
def test_what_is_no_text_is_refused(models, texts, message):
    with pytest.raises(UserError, match=message):
        models["vilref"].encode_texts(texts)
    if not hasattr(texts, "__next__"):
        with pytest.raises(UserError, match=message):
            models["retclip"].encode_patient_texts(texts)


def test_patients_without_an_eye(models, pixels):
    model = models["retclip"]
    found = model.encode_patients([pixels, None, None], [None, pixels, float("nan")])
    assert found["image_patient"].shape == (3, 8)
    lengths = np.linalg.norm(found["image_patient"], axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0], atol=1e-5)
    with pytest.raises(UserError, match="2 left and 1 right images"):
        model.encode_patients([pixels, None], [pixels])
    with pytest.raises(UserError, match="left images: number 0 is int"):
        model.encode_patients([1], [pixels])


def test_a_network_of_images_has_no_patients(model, pixels):
    for call in (
        lambda: model.encode_patients([pixels], [pixels]),
        lambda: model.encode_patient_texts("drusen"),
    ):
        with pytest.raises(UserError, match="vilref network has no patient level"):
            call()


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ("drusen", {}, "at least two"),
        ([], {}, "at least two"),
        (["drusen"], {}, "at least two"),
        ({"drusen": None}, {}, "at least two"),
        (None, {}, "not as None"),
        (["normal", "drussen"], {}, "'drussen' is no condition.*did you mean 'drusen'"),
        (["normal", "diabetic retinopaty"], {}, "did you mean 'diabetic_retinopathy'"),
        (["normal", "Glaukoma"], {}, "did you mean 'glaucoma'"),
        (["normal", "a cat on a mat"], {}, "'a cat on a mat' is no condition.*needs prompts"),
        ({"normal": None, "drussen": None}, {}, "did you mean 'drusen'"),
        (["normal", "drusen", "drusen"], {}, "'drusen' occur twice"),
        (["glaucoma", "Glaucoma"], {}, "the same condition"),
        (["normal", None], {}, "None is no name"),
        (["normal", 3], {}, "int 3 is no name"),
        (["normal", ""], {}, "no name"),
        ({"normal": None, "mine": []}, {}, "no prompts of class 'mine'"),
        ({"normal": None, "mine": [None]}, {}, "prompts of class 'mine': number 0 is None"),
        ({"normal": None, "mine": ""}, {}, "prompts of class 'mine': number 0 is empty"),
        (["normal", "drusen"], {"language": "fr"}, "en and zh, not in 'fr'"),
        ({"a": "b", "c": "d"}, {"language": "fr"}, "en and zh, not in 'fr'"),
        (["normal", "drusen"], {"language": None}, "not in None"),
        (["normal", "drusen"], {"language": ["en"]}, "not in"),
        (["normal", "drusen"], {"modality": "mri"}, "modality 'mri'"),
    ],
)
def test_classes_that_cannot_be_compared_are_refused(model, pixels, classes, options, message):
    with pytest.raises(UserError, match=message):
        model.zero_shot(pixels, classes, **options)


def test_classes_by_name_and_by_prompts_of_ones_own(model, pixels):
    known = model.zero_shot([pixels, pixels], ["normal", "drusen"])
    assert known.shape == (2, 2)
    np.testing.assert_allclose(known.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(
        model.zero_shot([pixels] * 2, {"normal": None, "drusen": None}), known
    )
    free = {"a cat": "a cat", "a dog": ["a dog", "one dog"], "drusen": "yellow dots"}
    assert model.zero_shot(pixels, free, language="zh").shape == (1, 3)
    assert model.zero_shot(pixels, np.array(["正常眼底", "drusen"])).shape == (1, 2)


def batch_of(name, rows=2):
    rng = np.random.default_rng(0)

    def image(n):
        return rng.normal(size=(n, SIZE, SIZE, 3)).astype(np.float32)

    def tokens(n):
        return rng.integers(1, 100, (n, LENGTH))

    if name == "retclip":
        return {"image_left": image(rows), "image_right": image(rows), "tokens": tokens(rows)}
    batch = {"image": image(rows), "tokens": tokens(rows)}
    if name == "keepfit":
        batch |= {"category": np.arange(rows), "expert_image": image(3), "expert_tokens": tokens(3)}
        batch |= {"attention_mask": np.ones((rows, LENGTH), np.int64)}
    return batch


@pytest.mark.parametrize("name", ["retclip", "vilref", "keepfit"])
def test_right_batches_pass(models, name):
    batch = batch_of(name)
    found = models[name].features(batch)
    assert all(np.isfinite(value).all() for value in found.values())
    assert np.isfinite(models[name].losses(batch)["loss_total"])
    lists = {key: value.tolist() for key, value in batch.items()}
    for key, value in models[name].features(lists).items():
        np.testing.assert_allclose(value, found[key], atol=1e-6)


def test_a_batch_may_be_traced(model):
    batch = batch_of("vilref")
    traced = jax.jit(model.features)(batch)["image"]
    np.testing.assert_allclose(traced, model.features(batch)["image"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "no array"),
        ({"image": "DROP"}, "image missing; vilref needs image, tokens"),
        ({"tokens": "DROP"}, "tokens missing"),
        ({"imgae": np.zeros(2)}, "no array 'imgae'; did you mean 'image'"),
        ({"image_left": np.zeros(2)}, "vilref knows no array 'image_left'"),
        ({"image": np.zeros((2, 3, SIZE, SIZE), np.float32)}, r"transpose\(0, 2, 3, 1\)"),
        ({"image": np.zeros((2, SIZE, SIZE), np.float32)}, "must have 4 axes"),
        ({"image": np.zeros((2, SIZE, SIZE, 1), np.float32)}, r"\(n, height, width, 3\)"),
        ({"image": np.zeros((2, 32, 32, 3), np.float32)}, "32 x 32 pixels, the network takes 16"),
        ({"image": np.zeros((3, SIZE, SIZE, 3), np.float32)}, "image 3, tokens 2"),
        ({"image": np.zeros((2, SIZE, SIZE, 3), np.uint8)}, "normalized float32, not uint8"),
        ({"image": np.full((2, SIZE, SIZE, 3), 255.0)}, "from 255 to 255 and is not normalized"),
        ({"image": np.full((2, SIZE, SIZE, 3), np.nan)}, "not finite"),
        ({"tokens": np.zeros((2, LENGTH), np.float32)}, "must be integers, not float32"),
        ({"tokens": np.zeros(2, np.int32)}, "must have 2 axes"),
        ({"tokens": np.full((2, LENGTH), WORDS)}, f"to {WORDS}, .*ends at {WORDS - 1}"),
        ({"tokens": np.full((2, LENGTH), 2**40)}, "has values from"),
        ({"tokens": np.full((2, LENGTH), -1)}, "ids from -1"),
        ({"tokens": np.ones((2, 13), int)}, "13 tokens a text, .* 12 positions"),
        ({"tokens": np.ones((2, 0), int)}, "0 tokens a text"),
        ({"tokens": [[1], [1, 2]]}, "tokens is no array"),
        ({"tokens": np.array([["a"], ["b"]])}, "no array of numbers"),
        ({"image": np.zeros((0, SIZE, SIZE, 3)), "tokens": np.ones((0, 4), int)}, "no sample"),
        ({"labels": np.zeros(2)}, "labels must have 2 axes"),
    ],
)
def test_wrong_batches_are_refused(model, change, message):
    batch = batch_of("vilref") | change
    batch = {name: value for name, value in batch.items() if not isinstance(value, str)}
    for call in (model.features, model.losses):
        with pytest.raises(UserError, match=message):
            call(batch)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("retclip", {"image_right": "DROP"}, "image_right missing"),
        ("retclip", {"has_left": np.ones(2, np.float32)}, "true or false"),
        ("retclip", {"has_left": np.ones(3, bool)}, "has_left 3"),
        ("keepfit", {"category": "DROP"}, "category missing"),
        ("keepfit", {"category": np.zeros(2, np.float32)}, "must be integers"),
        ("keepfit", {"expert_tokens": "DROP"}, "expert_tokens missing"),
        ("keepfit", {"expert_image": np.zeros((2, SIZE, SIZE, 3))}, "expert_image 2, expert"),
        ("keepfit", {"attention_mask": np.ones((2, 5), int)}, r"attention_mask \(2, 5\)"),
    ],
)
def test_wrong_batches_of_other_kinds_are_refused(models, name, change, message):
    batch = batch_of(name) | change
    batch = {key: value for key, value in batch.items() if not isinstance(value, str)}
    with pytest.raises(UserError, match=message):
        models[name].losses(batch)


@pytest.mark.parametrize("batch", [None, [], "tokens", np.zeros(3)])
def test_what_is_no_batch_is_refused(model, batch):
    with pytest.raises(UserError, match="a batch is a mapping of arrays"):
        model.features(batch)


@pytest.mark.wrong_arguments
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: retfm_jax.load(None), "give a path"),
        (lambda folder: retfm_jax.load(""), "give a path"),
        (lambda folder: retfm_jax.load(3), "give a path"),
        (lambda folder: retfm_jax.load(folder / "absent"), "does not exist"),
        (lambda folder: retfm_jax.load(folder), "no checkpoint"),
        (lambda folder: retfm_jax.load(folder / "a.png"), "no weight file"),
        (lambda folder: retfm_jax.load(folder / "a.png", "retclip"), "no weight file"),
        (lambda folder: retfm_jax.load(folder / "a.png", "retclop"), "no method 'retclop'"),
        (lambda folder: retfm_jax.from_torch(None, "retclip"), "no state dict, but NoneType"),
        (lambda folder: retfm_jax.from_torch("w.pt", "retclip"), "is a path"),
        (lambda folder: retfm_jax.from_torch(folder, "retclip"), "is a path"),
        (lambda folder: retfm_jax.from_torch({}, "retclip"), "no tensor is in it"),
        (lambda folder: retfm_jax.from_torch([1], "retclip"), "no state dict, but list"),
        (lambda folder: retfm_jax.from_torch({1: np.ones(2)}, "retclip"), "have no names"),
        (lambda folder: retfm_jax.from_torch({"a": np.ones(2)}, "clip"), "no method 'clip'"),
        (lambda folder: retfm_jax.from_torch({"a": np.ones(2)}, None), "no image tower"),
        (lambda folder: retfm_jax.from_torch({"a": np.ones(2)}, "vilref", 0), "whole number"),
        (lambda folder: retfm_jax.from_torch({"a": np.ones(2)}, "vilref", "2"), "whole number"),
        (lambda folder: retfm_jax.from_torch(torch.nn.Linear(1, 1), "vilref"), "is a module"),
        (lambda folder: retfm_jax.from_torch({"a": np.array(["x"])}, "vilref"), "of the type <U1"),
        (lambda folder: retfm_jax.from_torch({"a": np.ones(1, complex)}, "vilref"), "complex128"),
        (lambda folder: retfm_jax.to_torch(None), "give a model"),
        (lambda folder: retfm_jax.to_torch({}), "give a model"),
    ],
)
def test_wrong_networks_are_refused(folder, call, message):
    with pytest.raises(UserError, match=message):
        call(folder)


def test_a_tokenizer_that_does_not_fit_the_network_is_refused(model, tmp_path):
    import dataclasses

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{index}" for index in range(WORDS))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    for text, message in (
        (TextConfig(str(tmp_path / "vocab.txt"), LENGTH), f"{WORDS + 4} tokens, .* {WORDS}:"),
        (TextConfig(context_length=13), "13 tokens long .* 12 positions"),
    ):
        data = dataclasses.replace(model.config.data, text=text)
        config = dataclasses.replace(model.config, data=data)
        other = retfm_jax.RetinalModel(model.method, model.params, model.state, config)
        with pytest.raises(UserError, match=message):
            other.encode_texts("w0")


def test_the_wording_of_reports_is_kept_with_the_network(model, tmp_path, pixels):
    """What a network was trained with is saved, loaded and asked with."""
    reports = [{"en": "Left eye: mild NPDR. Right eye: drusen."}] * 6
    wording = learn_wording(reports, shared_labeler())
    own = retfm_jax.RetinalModel(model.method, model.params, model.state, model.config, wording)
    own.save(tmp_path / "saved")
    loaded = retfm_jax.load(tmp_path / "saved")
    assert loaded.wording == wording
    model.save(tmp_path / "unknown")
    assert retfm_jax.load(tmp_path / "unknown").wording is None
    found = loaded.zero_shot(pixels, ["diabetic_retinopathy", "drusen"])
    asked = {"a": "Left eye: mild NPDR. Right eye: mild NPDR.",
             "b": "Left eye: drusen. Right eye: drusen."}  # fmt: skip
    np.testing.assert_allclose(found, model.zero_shot(pixels, asked), rtol=1e-5)
