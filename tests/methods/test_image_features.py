"""What image towers say before any projection, which a linear probe may learn from."""

import jax
import numpy as np
import pytest
from golden_files import Golden

from retfm_jax.models.layers import unit


@pytest.mark.parametrize("name", ["vilref_vit", "vilref_rn"])
def test_are_what_the_published_network_has_before_its_projection(name):
    golden = Golden(f"{name}.npz")
    method, params, state = golden.network("vilref", golden.config["text_num_attention_heads"])
    found = jax.jit(method.image_features)(params, state, golden.batch()["image"])
    want = golden["out"]["image_backbone"]
    assert np.abs(found - want).max() <= 2e-5 * np.abs(want).max()


def test_keepfit_projects_them():
    golden = Golden("keepfit_resnet.npz")
    method, params, state = golden.network("keepfit", golden.config["heads"])
    found = jax.jit(method.image_features)(params, state, golden.batch()["image"])
    projected = unit(unit(found) @ params["image_projection"]["kernel"])
    np.testing.assert_allclose(projected, golden["out"]["image"], atol=2e-5)


def test_retclip_s_are_those_of_each_eye():
    golden = Golden("retclip_vit.npz")
    method, params, state = golden.network("retclip", golden.config["text_num_attention_heads"])
    images = golden.batch()["image_left"]
    found = jax.jit(method.image_features)(params, state, images)
    assert found.shape == (len(images), method.config.image.width)
    embedded = found @ params["visual"]["projection"]
    bound = method.bind(params, state.batch_stats).visual(images)[0]
    np.testing.assert_allclose(embedded, bound, atol=2e-5)
