"""Options of the protocols."""

import dataclasses

from retfm_jax.captioning import PUBLISHED, Search
from retfm_jax.config import LoraConfig
from retfm_jax.data.class_files import AS_RELEASED, Reading
from retfm_jax.evaluation.protocols.few_shot import Shots
from retfm_jax.files import PathLike


@dataclasses.dataclass(frozen=True)
class FineTuneConfig:
    """The recipe of fine-tuning; the learning rates are RET-CLIP's.

    Attributes:
      backbone_learning_rate, head_learning_rate: peaks of AdamW, cosine to zero.
      epochs: passes over the support.
      batch_size: images a step.
      weight_decay: of AdamW, on both.
      layer_decay: factor on the backbone's learning rate from each layer to the one before it; see
        `training.optimizers.layer_factors`; None: one rate.
      drop_path: probability that the last block of a vision transformer leaves out a branch, see
        `ViTConfig`; None: nothing is left out.
      lora: trains low-rank updates of the backbone instead of all of it; see `LoraConfig`.
    """

    backbone_learning_rate: float = 2e-6
    head_learning_rate: float = 1e-3
    epochs: int = 50
    batch_size: int = 16
    weight_decay: float = 1e-2
    layer_decay: float | None = None
    drop_path: float | None = None
    lora: LoraConfig | None = None


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """How reports are written, and what they are compared with.

    Attributes:
      search: of the likeliest report.
      meteor: METEOR's program, see `metrics.meteor`; None: it is left out.
      training_cases: cases of the training split, evenly over it, among whose reports the baselines
        choose at most; 0: there are none.
    """

    search: Search = PUBLISHED
    meteor: PathLike | None = None
    training_cases: int = 10_000


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the protocols.

    Attributes:
      languages: of prompts and reports; adapters take the first; None: as in the model's
        configuration.
      prompts: "report", "name" or "knowledge" (see `knowledge.prompts.prompts_of`); None:
        "knowledge" for a model that was trained on categories, "report" for one that was trained
        on reports.
      draws: number of resamples of the bootstrap; None: as in the model's configuration.
      seed: of the bootstrap and of everything that a protocol samples.
      train_split: what the supervised protocols learn from.
      shots: how much of it.
      folds: samples of the support, with the seeds from `seed` on; the whole split is one fold.
      fit_augmentations: random copies that the support gains.
      test_augmentations: random copies over whose scores the mean is taken; 0 scores the images as
        they are. Fine-tuning augments its support by itself and scores images as they are.
      fine_tune: its recipe.
      caption: how reports are written and compared.
      mistakes: how many of the most confident mistakes of each section have heat maps on the page;
        0: none, and the page shows photographs alone.
      reading: how the files of a folder or release are read.
      on_error: "skip" leaves out images that cannot be decoded and names them, "refuse" ends the
        evaluation at them.
    """

    languages: tuple[str, ...] | None = None
    prompts: str | None = None
    draws: int | None = None
    seed: int = 0
    train_split: str = "train"
    shots: tuple[Shots, ...] = (Shots(),)
    folds: int = 5
    fit_augmentations: int = 0
    test_augmentations: int = 0
    fine_tune: FineTuneConfig = dataclasses.field(default_factory=FineTuneConfig)
    caption: CaptionConfig = CaptionConfig()
    mistakes: int = 0
    reading: Reading = AS_RELEASED
    on_error: str = "skip"


@dataclasses.dataclass(frozen=True)
class ResolvedOptions(Options):
    """Options with everything decided that the model decides."""

    languages: tuple[str, ...] = ()
    prompts: str = ""
    draws: int = 0


#: Everything as published, or as the model's configuration has it.
DEFAULTS = Options()
