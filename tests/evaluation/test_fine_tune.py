"""Fine-tuning learns, moves the image tower and nothing else, and repeats with its seed."""

import jax
import numpy as np
from colour_world import CLASSES, ColourModel, image

from retfm_jax.data.sources import Subset
from retfm_jax.evaluation.protocols.fine_tune import FineTuneConfig, FineTuning


class _Records(list):
    name, kind, split, label_names = "colors", "image", "train", CLASSES


def test_colors_are_learned_and_the_text_tower_stays():
    model = ColourModel()
    records = _Records(image(number, CLASSES[number % 3]) for number in range(12))
    source = Subset(records, np.arange(12), "all")
    labels = np.stack([record.labels for record in records])
    before = jax.tree.map(np.array, model.params)
    tuning = FineTuning(model, FineTuneConfig(1e-2, 3e-2, epochs=12, batch_size=5), 4, True)
    params = tuning.fit(source, range(12), labels, seed=3, progress=False)
    scores = tuning.predict(params, source)
    assert scores.shape == (12, 4)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores.argmax(1), labels.argmax(1))
    assert list(params["backbone"]) == ["['visual']['kernel']"]
    assert (params["backbone"]["['visual']['kernel']"] != before["visual"]["kernel"]).any()
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    again = tuning.fit(source, range(12), labels, seed=3, progress=False)
    jax.tree.map(np.testing.assert_array_equal, params, again)
