"""Parameters that a mesh divides give the loss and the gradients of whole ones."""

import jax
import numpy as np

from retfm_jax.config import MeshConfig
from retfm_jax.methods.retclip import RetClip, RetClipConfig
from retfm_jax.models.bert import BertConfig
from retfm_jax.models.vit import ViTConfig
from retfm_jax.runtime.mesh import batch_sharding, make_mesh, shardings, traced_on
from retfm_jax.training.gradient_cache import loss_and_gradients
from retfm_jax.training.optimizers import Partition


def test_gathered_layers_give_the_same_gradients():
    tower = {"width": 64, "layers": 2, "heads": 2, "remat": "none"}
    method = RetClip(
        RetClipConfig(
            image=ViTConfig(image_size=8, patch_size=4, **tower),
            text=BertConfig(vocab_size=80, mlp_width=64, positions=8, dropout=0.0, **tower),
            embed_dim=16,
        )
    )
    params, state = jax.jit(method.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "image_left": rng.normal(size=(16, 8, 8, 3)).astype(np.float32),
        "image_right": rng.normal(size=(16, 8, 8, 3)).astype(np.float32),
        "tokens": rng.integers(1, 80, (16, 6)).astype(np.int32),
    }

    def gradients(mesh_sizes):
        mesh = make_mesh(MeshConfig(*mesh_sizes), jax.devices()[: np.prod(mesh_sizes)])

        def compute(params, batch):
            with traced_on(mesh):
                loss, _, _, gradient = loss_and_gradients(
                    method, Partition(), params, state, batch, None, mesh=mesh
                )
            return loss, gradient

        lies = shardings(params, mesh)
        placed = jax.device_put(params, lies)
        compiled = jax.jit(compute, out_shardings=(None, lies))
        return jax.device_get(compiled(placed, jax.device_put(batch, batch_sharding(mesh))))

    (loss, whole), (divided_loss, parts) = gradients((1, 1)), gradients((2, 4))
    np.testing.assert_allclose(divided_loss, loss, rtol=1e-5)
    for part, one in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(part, one, atol=1e-5 * max(1, np.abs(one).max()))
