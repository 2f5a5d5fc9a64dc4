"""A head for classes on an image tower: what fine-tuning on labeled photographs trains."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from retfm_jax.losses.classification import binary_cross_entropy, cross_entropy, graded
from retfm_jax.methods.base import Batch, MethodState, Outcome, Params, Selected
from retfm_jax.methods.image_tower import TowerConfig, TowerMethod, TowerNetwork
from retfm_jax.methods.outputs import (
    CLASS_LOGITS,
    ImageTower,
    LinearMap,
    Output,
    Scale,
    Step,
    Unit,
)
from retfm_jax.methods.per_sample import PerSampleMethod
from retfm_jax.models import resnet, vit
from retfm_jax.models.layers import Linear, dropout, split, unit
from retfm_jax.ranges import Name, Rate, Share

#: Standard deviation of the head's first weights, as RETFound's.
_HEAD_STD = 2e-5
#: The head's name in files where "head" is the tower's projection.
_SECOND_HEAD = "class_head"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(TowerConfig):
    """Sizes of the network, its classes and its loss.

    Attributes:
      classes: their names, in the order of the head's outputs; () until a run fills them from its
        data, and the head has two outputs as long.
      outcome: "exclusive": one class holds; "findings": each holds or not; "grades": one holds,
        and the classes are ordered, the lowest first; None: a run decides by its data.
      prevalence: share of the training split that shows each class; () until a run fills it.
      label_smoothing: share of each target that is spread over all classes.
      class_weights: of the loss; "balanced" weighs classes (for findings both of their sides) by
        the inverse of `prevalence`, so that all count alike; "none" weighs samples alike.
      head_input: what the head sees: "features" of the tower before any projection (RETFound), its
        projected "embedding" (RET-CLIP+), or that embedding with "unit" norm, times CLIP's first
        scale, 1 / 0.07.
      head_dropout: share of the head's inputs that is zeroed in training.
    """

    classes: tuple[Name, ...] = ()
    outcome: Outcome | None = None
    prevalence: tuple[Share, ...] = ()
    label_smoothing: Rate = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    head_input: Literal["features", "embedding", "unit"] = "features"
    head_dropout: Rate = 0.0

    def __post_init__(self):
        super().__post_init__()
        twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
        if twice:
            raise ValueError(f"classes names {', '.join(twice)} twice")
        if len(self.classes) == 1 and self.outcome not in ("findings", None):
            raise ValueError(
                f"classes names one class, {self.classes[0]!r}; {self.outcome} are two"
            )
        if self.prevalence and len(self.prevalence) != len(self.classes):
            raise ValueError(
                f"prevalence has {len(self.prevalence)} shares, classes {len(self.classes)} names"
            )

    @property
    def outputs(self) -> int:
        """Outputs of the head."""
        return len(self.classes) or 2

    @property
    def head_width(self) -> int:
        """Width of what the head sees."""
        image = self.image
        if isinstance(image, vit.ViTConfig):
            projected = self.head_input != "features" and self.embed_dim is not None
            return self.embed_dim if projected and self.embed_dim else image.width
        if isinstance(image, resnet.ClipResNetConfig):
            return self.embed_dim or 1024
        return image.features


class ClassifierNetwork(TowerNetwork):
    """An image tower and a linear head.

    Args:
      config: sizes of the network.
      rngs: streams of random numbers for the initial parameters.
    """

    def __init__(self, config: ClassifierConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        width, outputs = config.head_width, config.outputs
        self.head = Linear(width, outputs, std=_HEAD_STD, bias=True, rngs=rngs)


class Classifier(TowerMethod[ClassifierNetwork], PerSampleMethod[ClassifierNetwork]):
    """Tells classes of single photographs apart.

    Batch norms keep their running statistics: labeled sets are small, and a batch of them says
    little about the mean.
    """

    name, config_class, default_experiment = "classifier", ClassifierConfig, "finetune"
    sample_kind = "labeled_photograph"
    needs_head = True

    def network(self, rngs: nnx.Rngs) -> ClassifierNetwork:
        return ClassifierNetwork(self.config, rngs=rngs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the head's outputs."""
        return self.config.classes

    @property
    def outcome(self) -> Outcome | None:
        """What the classes are to each other; of several "exclusive" until a run has decided."""
        return self.config.outcome or _outcome(len(self.classes))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The tower's, and the logits of the classes; see `Method.outputs`."""
        where = self.config.head_input
        steps: list[Step] = [ImageTower(self.config.image, projected=where != "features")]
        if where == "unit":
            steps += [Unit(), Scale(float(self.scale({})))]
        logits = Output(CLASS_LOGITS, (*steps, LinearMap("head")))
        return (*super().outputs, logits)

    @property
    def weight_names(self) -> tuple[tuple[str, str, str], ...]:
        """Rows as `Method.weight_names` has: the tower's, and "head.weight", "head.bias".

        timm calls the projection of CLIP's tower "head.weight"; beside it ours is "class_head".
        """
        tower = super().weight_names
        taken = any(name == "head.weight" for name, _, _ in tower)
        head = _SECOND_HEAD if taken else "head"
        return (
            *tower,
            (f"{head}.weight", "head/kernel", "linear"),
            (f"{head}.bias", "head/bias", "copy"),
        )

    @property
    def class_weights(self) -> Float[np.ndarray, " c"] | Float[np.ndarray, "2 c"] | None:
        """Weights of the loss as `losses.classification` takes them, of mean 1 in training.

        For findings (2, c): 1 / (2 (1 - p)) of absent and 1 / (2 p) of present ones; else (c,):
        1 / (c' p) for the c' classes that occur. None: samples are weighed alike.

        Raises:
          ValueError: the prevalence p is not known.
        """
        config = self.config
        if config.class_weights == "none":
            return None
        if not config.prevalence:
            raise ValueError("class_weights are balanced by prevalence, which is not given")
        p = np.asarray(config.prevalence, np.float64)
        sides = np.stack([1 - p, p]) if self.outcome == "findings" else p
        count = 2 if self.outcome == "findings" else max(int((p > 0).sum()), 1)
        weights = np.divide(1, count * sides, where=sides > 0, out=np.zeros_like(sides))
        return weights.astype(np.float32)

    def class_logits(
        self,
        params: Params,
        state: MethodState,
        images: Float[Array, "b h w 3"],
        *,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b c"]:
        """Computes the logits of the classes; see `Method.class_logits`."""
        tower_keys, head_keys = split(keys, 2)
        network = self.bind(params, state.batch_stats)
        embedding, features = self.outputs_of(network, images, tower_keys)
        seen = features if self.config.head_input == "features" else embedding
        if self.config.head_input == "unit":
            seen = unit(seen) * self.scale(params)
        return network.head(dropout(seen, self.config.head_dropout, head_keys))

    def sample_losses(
        self,
        params: Params,
        state: MethodState,
        batch: Batch,
        *,
        keys: Key[Array, " b"] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, " b"]]:
        """Computes the loss of each sample, smoothed and weighted as configured in training alone.

        It is `losses.classification.cross_entropy`, of findings `binary_cross_entropy`, of grades
        `graded`.
        """
        logits = self.class_logits(params, state, batch["image"], keys=keys)
        loss = {"findings": binary_cross_entropy, "grades": graded}.get(
            self.outcome or "", cross_entropy
        )
        options: dict[str, Any] = {}
        if train:
            weights = self.class_weights
            weights = None if weights is None else jnp.asarray(weights)
            options = {"smoothing": self.config.label_smoothing}
            options["weights" if self.outcome == "findings" else "class_weights"] = weights
        return {"loss_total": loss(logits, batch["labels"], **options)}

    def features(self, params: Params, state: MethodState, batch: Batch) -> dict[str, Array]:
        """Computes `logits`, and what the tower gives as in `TowerMethod.features`."""
        logits = self.class_logits(params, state, batch["image"])
        return super().features(params, state, batch) | {"logits": logits}

    @classmethod
    def select(
        cls,
        tensors: Mapping[str, np.ndarray],
        text_num_heads: int | None = None,
        pooling: str | None = None,
        stated: Mapping[str, Any] | None = None,
    ) -> Selected:
        """Finds the tower and its head in a fine-tuned file; see `TowerMethod.select`.

        Args:
          tensors, text_num_heads, pooling, stated: as there.

        Returns:
          the network; its classes are called by their number, as the file has no names.

        Raises:
          ValueError: there is no tower, or no head behind it.
        """
        found = super().select(tensors, text_num_heads, pooling, stated)
        names = [_SECOND_HEAD, f"{found.config.prefix}head", "head"]
        if not isinstance(found.config.image, vit.ViTConfig):
            names.append(f"{found.config.prefix}fc")  # torchvision's
        name = next((name for name in names if f"{name}.bias" in tensors), "head")
        weight, bias = (tensors.get(f"{name}.{part}") for part in ("weight", "bias"))
        if weight is None or weight.ndim != 2 or bias is None:
            raise ValueError(f"no head for classes is found, {name}.weight and {name}.bias")
        classes = tuple(f"class {number}" for number in range(len(weight)))
        outcome = _outcome(len(classes))
        config = dataclasses.replace(found.config, classes=classes, outcome=outcome)
        taken = "be a finding" if len(classes) == 1 else "exclude each other"
        notes = (
            f"classes are called by their number, from 0 to {len(weight) - 1}, and taken to "
            f"{taken}: the file tells neither",
        )
        kept = {each: tensor for each, tensor in found.tensors.items() if each != f"{name}.weight"}
        kept.pop(f"{name}.bias", None)
        ours = _SECOND_HEAD if name == _SECOND_HEAD else "head"
        kept |= {f"{ours}.weight": weight, f"{ours}.bias": bias}
        return Selected(config, kept, found.image, (*found.notes, *notes))


def _outcome(classes: int) -> Outcome:
    """What so many classes are to each other, where nothing tells."""
    return "findings" if classes == 1 else "exclusive"


METHOD = Classifier
