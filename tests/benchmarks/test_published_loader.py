"""The published loader that ours is compared with reads the same patients to the same pixels."""

import base64
import io

import numpy as np
from PIL import Image

from retfm_jax.benchmarks.published_loader import PublishedDataset, PublishedLoader, write_lmdb
from retfm_jax.config import CLIP_MEAN, CLIP_STD, AugmentConfig, ImageConfig, TextConfig
from retfm_jax.data import device_augment as device
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.images import decode, fit, training_image
from retfm_jax.data.importing import published
from retfm_jax.data.text import Tokenizer


def _photograph(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    out = io.BytesIO()
    picture = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
    picture.save(out, "JPEG", quality=95)
    return out.getvalue()


PATIENTS = [
    (f"p{number}", _photograph(number), _photograph(number + 10), f"左眼：报告{number}")
    for number in range(5)
]
DATASET = {
    "size": 64,
    "mean": CLIP_MEAN,
    "std": CLIP_STD,
    "crop_area": (1.0, 1.0),
    "flip_probability": 0.0,
    "text": {"tokenizer": "bert-base-chinese", "context_length": 12},
}


def test_pixels_and_tokens_are_those_of_our_pipeline(tmp_path):
    write_lmdb(tmp_path / "train", PATIENTS)
    data = PublishedDataset(str(tmp_path / "train"), **DATASET)
    config = ImageConfig(size=64)
    tokenizer = Tokenizer(TextConfig(context_length=12))
    still = AugmentConfig(crop_area=(1.0, 1.0))
    rng = np.random.default_rng(0)
    for index, (_, left, right, report) in enumerate(PATIENTS):
        *eyes, tokens = data[index]
        np.testing.assert_array_equal(tokens.numpy(), tokenizer.row(report))
        for eye, encoded in zip(eyes, (left, right), strict=True):
            exact = fit(decode(encoded, "x"), config)
            pixels = data.pixels(base64.urlsafe_b64encode(encoded).decode())
            np.testing.assert_array_equal(pixels, exact)
            ours = device.prepare({"image": exact[None]}, config)["image"][0]
            np.testing.assert_allclose(eye.numpy().transpose(1, 2, 0), ours, atol=1e-5)
            trained = training_image(encoded, "x", config, still, rng, mirror=False)
            assert np.abs(trained.astype(int) - exact).mean() < 1


def test_our_importer_reads_what_the_published_tool_writes(tmp_path):
    write_lmdb(tmp_path / "train", PATIENTS)
    problems = ProblemLog()
    rows = published.rows_of_lmdb(tmp_path / "train", problems)
    assert not problems.problems
    found = [(r.record_id, r.left.read(), r.right.read(), r.report["zh"]) for r in rows]
    assert found == PATIENTS


def test_a_pass_counts_the_whole_batches_behind_the_first(tmp_path):
    write_lmdb(tmp_path / "train", PATIENTS)
    loader = PublishedLoader(2, 0, folder=str(tmp_path / "train"), **DATASET)
    timing, samples = loader.run()
    assert samples == 2
    assert timing.seconds > 0
