"""What a frozen network sees in the photographs of a task, computed once for all protocols."""

import time
from typing import Literal

import numpy as np

from retfm_jax.evaluation.protocols.supervised import Images
from retfm_jax.experiments.benchmark.blocks import in_blocks
from retfm_jax.experiments.benchmark.networks import Network
from retfm_jax.files import Path
from retfm_jax.runtime.lock import hold
from retfm_jax.zero_shot import Embedding, check_finite

#: "features" of the image tower before any projection, or unit-norm "embeddings" beside texts'.
Kind = Literal["features", "embeddings"]


def seen_by(network: Network, images: Images, kind: Kind, folder: Path) -> tuple[Embedding, float]:
    """Embeds the photographs of a split, or reads what an earlier cell or process has embedded.

    Args:
      network: that embeds.
      images: of the split.
      kind: what is computed.
      folder: of the network's cells on the task; gets a folder of that kind for each split.

    Returns:
      vectors (n, d) float32 in the order of the photographs, and the seconds that they took when
      they were computed.

    Raises:
      Held: another process embeds for this network and task.
      UserError: a vector is no finite number, or a file cannot be read or written.
    """
    model = network.model
    encode = model.image_features if kind == "features" else model.encode_images
    split = images.source.split

    def make(rows: range) -> dict[str, np.ndarray]:
        begun = time.perf_counter()
        records = [images.source[images.rows[row]] for row in rows]
        found = np.asarray(encode([record.image for record in records]), np.float32)
        check_finite(found, [record.record_id for record in records], "the image of")
        each = (time.perf_counter() - begun) / len(rows)
        return {"vector": found, "seconds": np.full(len(rows), each)}

    with hold(folder / kind):
        found = in_blocks(
            folder / kind / split, len(images.rows), make, f"{network.name}: {kind}, {split}"
        )
    return found["vector"], float(found["seconds"].sum())
