"""Wrong inputs of every loss: refused, where broadcasting would give a number."""

import jax
import jax.numpy as jnp
import pytest

from retfm_jax.errors import UserError
from retfm_jax.losses import contrastive, coupling, memory_queue, text_revision, tripartite

pytestmark = pytest.mark.wrong_arguments


def unit(rows, width=4):
    return jnp.ones((rows, width)) / width**0.5


def three(**change):
    levels = ("patient", "left", "right")
    found = {f"{kind}_{level}": unit(4) for kind in ("image", "text") for level in levels}
    return {name: each for name, each in (found | change).items() if each is not None}


SCALES = dict.fromkeys(("patient", "left", "right"), 10.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive.info_nce(unit(1), unit(4), 1.0), r"text \(4, 4\) has 4 where image"),
        (lambda: contrastive.info_nce(unit(4), unit(1), 1.0), r"text \(1, 4\) has 1 where image"),
        (lambda: contrastive.info_nce(unit(4), unit(4, 5), 1.0), r"has 5 where .* \(axis d\)"),
        (
            lambda: contrastive.info_nce(jnp.ones(4), jnp.ones(4), 1.0),
            r"shape \(b, d\), not \(4,\)",
        ),
        (lambda: contrastive.info_nce(unit(4), unit(4), jnp.ones(4)), r"scale .* \(\), not \(4,\)"),
        (lambda: contrastive.info_nce(unit(4), unit(4), 1.0, jnp.ones(1, bool)), "mask"),
        (lambda: contrastive.info_nce(unit(4), unit(4), 1.0, jnp.ones((4, 1), bool)), "mask"),
        (lambda: contrastive.info_nce(unit(4), unit(4), 1.0, None, 0), "block_size"),
        (lambda: contrastive.info_nce(unit(4), unit(4), 1.0, None, -2), "block_size"),
        (
            lambda: contrastive.soft_target_info_nce(unit(4), unit(4), 1.0, jnp.arange(1)),
            "category",
        ),
        (lambda: contrastive.soft_target_info_nce(unit(4), unit(4), 1.0, jnp.ones(4)), "integers"),
        (lambda: coupling.weighted_similarity_coupling(unit(4), unit(4), 1.0, unit(1)), "labels"),
        (
            lambda: coupling.weighted_similarity_coupling(
                unit(4), unit(4), 1.0, unit(4, 2), memory_queue.init(8, 4, 3)
            ),
            r"queue\['labels'\] \(8, 3\) has 3 where labels",
        ),
        (
            lambda: coupling.weighted_similarity_coupling(
                unit(4), unit(4), 1.0, unit(4, 2), momentum=(unit(4), unit(1))
            ),
            r"momentum\[1\] \(1, 4\)",
        ),
        (
            lambda: memory_queue.push(memory_queue.init(8, 4, 2), unit(3), unit(1), unit(3, 2)),
            r"text \(1, 4\)",
        ),
        (
            lambda: memory_queue.push(memory_queue.init(8, 4, 2), unit(3), unit(3), unit(3, 1)),
            r"its labels \(8, 2\) has 2 where labels \(3, 1\) has 1",
        ),
        (lambda: text_revision.revise_texts(unit(3), unit(5), unit(1), 2), "values"),
        (lambda: text_revision.revise_texts(unit(3), unit(5), unit(5), 3), "num_heads 3 does not"),
        (
            lambda: text_revision.revise_texts(unit(3), unit(5), unit(5), 2, softmax_over="all"),
            "heads or experts, not 'all'",
        ),
        (lambda: text_revision.revision_loss(unit(3), unit(1)), "revised_text"),
        (lambda: tripartite.tripartite(three(text_left=None), SCALES), "needs text_left"),
        (lambda: tripartite.tripartite(three(), {"patient": 1.0}), "needs the scale of left, the"),
        (lambda: tripartite.tripartite(three(text_left=unit(1)), SCALES), "text_left"),
        (lambda: tripartite.tripartite(three(), SCALES, jnp.ones(1, bool)), "has_left"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_shapes_are_checked_where_a_loss_is_compiled():
    with pytest.raises(UserError, match=r"text \(1, 4\)"):
        jax.jit(contrastive.info_nce)(unit(4), unit(1), 1.0)
