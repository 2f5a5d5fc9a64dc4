"""Schema of an experiment: frozen dataclasses, of which each checks its own entries."""

import dataclasses
from typing import Annotated, Any, Literal

from retfm_jax.ranges import (
    LARGEST,
    Count,
    Few,
    FewOrNone,
    Filled,
    Increasing,
    Name,
    NonNegative,
    Positive,
    PositiveFloat,
    PositiveShare,
    Range,
    RangeError,
    Rate,
    Section,
    Seed,
    Share,
)

#: Devices along an axis of the mesh; -1 for those that are left.
_Axis = Annotated[int, Range(low=1, high=LARGEST, also=(-1,))]

#: Mean and standard deviation of CLIP's training images, RGB, values 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ImageConfig(Section):
    """Conversion of a photograph into the network's input.

    Attributes:
      size: height and width in pixels.
      resize: "squash" to size x size with Pillow's bicubic filter (RET-CLIP, ViLReF);
        "squash_bilinear" with its bilinear one, antialiased as well (RETFound-Green); "pad": long
        side to size with an antialiased bilinear filter, zeros at right and bottom (KeepFIT);
        "crop": short side to size * 256 / 224, bicubic, then the central square (RETFound).
      mean, std: of the channels R, G, B, for values 0..1.
      field_of_view: before all else, "crop" a photograph to the square around the lit disc, where
        there is one; "whole" takes it as it is.
      contrast: behind that crop and before scaling, "clahe" equalizes the lightness in 8 x 8 tiles
        (clip limit 2); "none" leaves it.
      modality: what the images are: color fundus photographs "cfp", fluorescein angiograms "ffa",
        or scans of optical coherence tomography "oct", which have no lit disc. It decides what
        prompts call them, and whether quality is measured, which is of fundus photographs.
    """

    size: Annotated[int, Range(low=1, high=16384)] = 224
    resize: Literal["squash", "squash_bilinear", "pad", "crop"] = "squash"
    mean: tuple[Share, Share, Share] = CLIP_MEAN
    std: tuple[PositiveShare, PositiveShare, PositiveShare] = CLIP_STD
    field_of_view: Literal["whole", "crop"] = "whole"
    contrast: Literal["none", "clahe"] = "none"
    modality: Literal["cfp", "ffa", "oct"] = "cfp"

    def __post_init__(self):
        super().__post_init__()
        if self.modality == "oct" and self.field_of_view == "crop":
            raise RangeError("field_of_view of modality oct must be whole: a scan has no lit disc")


@dataclasses.dataclass(frozen=True)
class TextConfig(Section):
    """Conversion of a report into token ids.

    Attributes:
      tokenizer: "bert-base-chinese" (the bundled vocabulary), a vocabulary file or folder, or
        "hf:owner/name" of the Hub.
      context_length: tokens with [CLS] and [SEP], or words with what begins and ends them; longer
        reports are cut, shorter ones padded.
      words: of a network that writes reports, in the order of their ids, from 1; it has no other
        tokenizer.
      cleaning: division of reports into these words, "plain" (`data.words.clean`) or "published",
        as MM-Retinal's captioner has it.
    """

    tokenizer: Name = "bert-base-chinese"
    context_length: Annotated[int, Range(low=3, high=LARGEST)] = 100
    words: tuple[Name, ...] = ()
    cleaning: Literal["plain", "published"] = "plain"

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.words)) < len(self.words):
            twice = sorted({word for word in self.words if self.words.count(word) > 1})
            raise RangeError(f"words names {', '.join(twice[:5])} twice")


@dataclasses.dataclass(frozen=True)
class AugmentConfig(Section):
    """Random changes to training images; every range of 0 switches its change off.

    Attributes:
      crop_area: smallest and largest share of the area that a random resized crop keeps.
      flip: "exchange" mirrors both eyes of a patient and swaps left and right, in the report too;
        "independent" flips each image on its own (as published for RET-CLIP, which contradicts
        laterality); "none".
      flip_probability: chance of the flip.
      brightness, contrast, saturation, hue: largest change by color jitter, as in torchvision.
      colour_probability: chance that a sample is jittered.
      erasing_probability: chance that a random rectangle is erased.
      erasing_fill: what stands there: the "mean" color, or normal "noise" of each pixel (RETFound).
      affine_probability, affine_degrees, affine_scale: random rotation and scaling.
      rand_augment: number of RandAugment's operations on an image; 0: none. RETFound's recipe has 2
        at magnitude 9; see `data.rand_augment`.
      rand_augment_magnitude: their mean strength, from 0 to 10.
      mixup: alpha of the Beta distribution by which an image and its labels are mixed with those of
        another of the batch; 0: none.
      cutmix: alpha of the Beta distribution of the share of an image that a rectangle of another
        one covers; 0: none. A batch has one of both where both are on.
    """

    crop_area: Annotated[tuple[PositiveShare, PositiveShare], Increasing()] = (0.9, 1.0)
    flip: Literal["exchange", "independent", "none"] = "exchange"
    flip_probability: Share = 0.5
    brightness: NonNegative = 0.2
    contrast: NonNegative = 0.2
    saturation: NonNegative = 0.2
    hue: Annotated[float, Range(low=0, high=0.5)] = 0.2
    colour_probability: Share = 1.0
    erasing_probability: Share = 0.1
    erasing_fill: Literal["mean", "noise"] = "mean"
    affine_probability: Share = 0.0
    affine_degrees: Annotated[float, Range(low=0, high=180)] = 5.0
    affine_scale: Annotated[tuple[PositiveFloat, PositiveFloat], Increasing()] = (0.9, 1.0)
    rand_augment: Annotated[int, Range(low=0, high=16)] = 0
    rand_augment_magnitude: Annotated[float, Range(low=0, high=10)] = 9.0
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0


@dataclasses.dataclass(frozen=True)
class ExpertConfig(Section):
    """Second stream of KeepFIT: expert image-text pairs, sampled with replacement.

    Attributes:
      dataset: name or folder, as that of the first stream.
      split: split of that dataset.
    """

    dataset: Name
    split: Name = "train"


@dataclasses.dataclass(frozen=True)
class MixConfig(Section):
    """Second dataset whose training split is mixed into the first one's.

    The turns of both are as even as the rate allows. An epoch sees every record of both, and those
    of one of them more often; 0.5 are turns of one each up to the length of the longer one.

    Attributes:
      dataset: name or folder, as that of the first one.
      split: split of that dataset.
      rate: share of the samples that are its records.
      words: whether a captioner learns the words of its reports, too.
    """

    dataset: Name
    split: Name = "train"
    rate: Annotated[float, Range(low=0.01, high=0.99)] = 0.5
    words: bool = True


@dataclasses.dataclass(frozen=True)
class CurriculumStageConfig(Section):
    """Epochs of a curriculum that see the records of some levels of difficulty.

    Attributes:
      until: epochs of the run after which the next stage begins; None: the run's end.
      levels: of the records that take part; 1 is the easiest.
      records: which ones: those of "categories", the training split's; of "descriptions", those of
        `CurriculumConfig.descriptions`; or "all".
    """

    until: Positive | None = None
    levels: Annotated[tuple[Positive, ...], Filled()] = (1,)
    records: Literal["categories", "descriptions", "all"] = "categories"


@dataclasses.dataclass(frozen=True)
class CurriculumConfig(Section):
    """Order of a run from easy records to hard ones (MedKCO, arXiv 2603.09101).

    An epoch is a pass over the records of its stage. A record has the level that `table` gives it;
    else that of the `curriculum.csv` beside its dataset; else that of its hardest category.

    Attributes:
      stages: of the run, one after the other.
      categories: names of categories by level, the easiest first; a record whose categories stand
        in none has the last level.
      table: CSV file with the columns `record_id` and `level`.
      descriptions: a dataset of images with captions, which takes part in stages of its own.
    """

    stages: Annotated[tuple[CurriculumStageConfig, ...], Filled()]
    categories: tuple[tuple[Name, ...], ...] = ()
    table: Name | None = None
    descriptions: ExpertConfig | None = None

    def __post_init__(self):
        super().__post_init__()
        *ends, last = [stage.until for stage in self.stages]
        known = [end for end in ends if end is not None]
        if last is not None or known != ends or known != sorted(set(known)):
            raise RangeError(
                "stages end one after the other, the last one with the run: their until must "
                f"increase and end with null, not {[*ends, last]}"
            )
        if self.descriptions is None and any(s.records == "descriptions" for s in self.stages):
            raise RangeError("stages of descriptions need descriptions, which names their dataset")
        levels: dict[str, int] = {}
        for level, names in enumerate(self.categories, 1):
            for name in names:
                if levels.setdefault(name, level) != level:
                    raise RangeError(f"categories gives {name} two levels")


@dataclasses.dataclass(frozen=True)
class MasksConfig(Section):
    """What training sees of a photograph with masks.

    Attributes:
      geometry: "whole" photographs, scaled as `data.image.resize` says; or random "windows" of
        `data.image.size` pixels.
      working_size: long side to which photographs are scaled before windows are taken, pixels; 0:
        as they are.
      holding: share of the windows that hold a pixel of a structure, each structure of the
        photograph equally often; the others lie anywhere.
      scale: factors between which windows are enlarged, equally often by the logarithm.
      resizing: of masks that are scaled down: "nearest" takes one pixel of many; "area" what half
        of the area shows, which keeps the width of vessels that are thicker than a pixel.
    """

    geometry: Literal["whole", "windows"] = "whole"
    working_size: Annotated[int, Range(low=0, high=16384)] = 0
    holding: Share = 0.5
    scale: Annotated[tuple[PositiveFloat, PositiveFloat], Increasing()] = (0.5, 2.0)
    resizing: Literal["nearest", "area"] = "nearest"


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Choice of the records, and how they are read.

    Attributes:
      dataset: name of a built dataset under `data_dir`, or a built dataset's folder; for class
        heads a task of `retfm tasks` or a folder of class folders as well.
      data_dir: where `retfm data build` and `retfm data import` put datasets.
      train_split, eval_split: TFDS split names; slices such as "train[:90%]" are allowed.
      language: of the reports; "mixed" samples one for every sample.
      case_images: images of a case that a sample of report generation has at most; of more,
        training takes random ones.
      image, text: conversion of photographs and reports.
      augment: random changes to training images.
      masks: what is seen of photographs with masks.
      vocabulary: YAML file of the conditions that reports are searched for (ViLReF); None for the
        bundled ones. Both as for `retfm label`.
      extend: YAML files that add conditions to the vocabulary, or names to its conditions.
      expert: the expert stream (KeepFIT only).
      mix: a second dataset that is mixed into the training split; None: there is one.
      curriculum: which records an epoch sees, from easy to hard ones; None: all of them.
      banned_categories: categories that training leaves out, for out-of-distribution tests.
      balance_sets: sample the sets of a collection equally often, however large each is (KeepFIT).
      classes: of labeled photographs, which of the dataset's classes are learned, in this order; ()
        for all that its training split shows, in its own order. Of photographs with masks, which of
        its structures.
      outcome: "exclusive": a photograph has exactly one of them, others are left out; "findings":
        each is present or absent; "grades": one of them, ordered from the lowest on; None: as the
        labels are.
      shares: of training, validation and test where the dataset has no splits, by a hash of the
        patient; one without validation gives up that share of its training split.
      fold: (k, K) instead of shares, the k-th of K folds by patient, from 0; see
        `data.division.Division`.
      patient_regex: finds the patient in a file's name, of folders and releases.
      follow_links: whether links that leave a folder or release are followed.
      exclude: an exclusion list, as `retfm data audit` writes it, whose records take no part.
      workers: processes that decode beside the main one; 0 uses threads only.
      threads: reading threads of a process; None for one on each core that it may use, up to 16; 0
        reads in the thread that takes batches. More pay only where records come from a slow
        network.
      prefetch: batches that are made ready ahead of the step.
    """

    dataset: Name = "synthetic_fundus"
    data_dir: Name = "datasets"
    train_split: Name = "train"
    eval_split: Name = "validation"
    language: Literal["en", "zh", "mixed"] = "zh"
    case_images: Annotated[int, Range(low=1, high=1024)] = 1
    image: ImageConfig = ImageConfig()
    text: TextConfig = TextConfig()
    augment: AugmentConfig = AugmentConfig()
    masks: MasksConfig = MasksConfig()
    vocabulary: Name | None = None
    extend: tuple[Name, ...] = ()
    expert: ExpertConfig | None = None
    mix: MixConfig | None = None
    curriculum: CurriculumConfig | None = None
    banned_categories: tuple[Name, ...] = ()
    balance_sets: bool = False
    classes: tuple[Name, ...] = ()
    outcome: Literal["exclusive", "findings", "grades"] | None = None
    shares: tuple[Share, Share, Share] = (0.7, 0.1, 0.2)
    fold: tuple[Count, Positive] | None = None
    patient_regex: Name | None = None
    follow_links: bool = False
    exclude: Name | None = None
    workers: FewOrNone = 0
    threads: FewOrNone | None = None
    prefetch: Few = 4

    def __post_init__(self):
        super().__post_init__()
        if abs(sum(self.shares) - 1) > 1e-6:
            raise RangeError(f"shares must sum to 1, not to {sum(self.shares):g}")
        if self.fold is not None and not self.fold[0] < self.fold[1]:
            raise RangeError(f"fold must be (k, K) with k from 0 to K - 1, not {list(self.fold)}")
        if self.mix is not None and self.curriculum is not None:
            raise RangeError("mix and curriculum both order the records: leave one of them out")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW with linear warm-up and half a cosine to zero.

    Attributes:
      rule: "adamw"; or "amsgrad", Adam with AMSGrad whose weight decay is part of the gradient, as
        PyTorch's Adam has it (MM-Retinal's captioner).
      learning_rate: the largest one, after the warm-up.
      warmup_steps: steps of linear warm-up, `learning_rate * (step + 1) / warmup_steps`.
      warmup_epochs: its length in passes over the training split, which a run turns into
        `warmup_steps`; None: as many steps as that says.
      weight_decay: of AdamW, times the learning rate.
      b1, b2: decay of the first and the second moment.
      eps: added to the root of the second moment.
      decay: "published" spares tensors whose published name contains bn, ln, bias or logit_scale;
        "matrices" spares those of one axis, as for MAE: biases, norms; "all" decays everything.
      layer_decay: factor on the learning rate from each layer of a tower to the one before it, of
        fine-tuning; None: all learn at one rate.
      tower_rate: factor on the learning rate of towers, so that a new head learns faster.
      last_layers: how many layers of a tower learn, from its end on, with what stands behind them:
        blocks of a transformer, stages of a residual network; 0: the tower stays as it is; None:
        all of it learns.
      clip_norm: largest global gradient norm, None for no clipping.
      clip_value: largest absolute value of a gradient's entry, None for no clipping; it comes
        behind `clip_norm`.
      frozen: path prefixes of parameters that stay as they are ("visual" freezes a tower).
    """

    rule: Literal["adamw", "amsgrad"] = "adamw"
    learning_rate: PositiveFloat = 3e-5
    warmup_steps: Count = 50
    warmup_epochs: NonNegative | None = None
    weight_decay: NonNegative = 1e-3
    b1: Rate = 0.9
    b2: Rate = 0.98
    eps: PositiveFloat = 1e-6
    decay: Literal["published", "matrices", "all"] = "published"
    layer_decay: PositiveShare | None = None
    tower_rate: PositiveShare = 1.0
    last_layers: Count | None = None
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    frozen: tuple[Name, ...] = ()


@dataclasses.dataclass(frozen=True)
class LoraConfig(Section):
    """Low-rank updates W + (alpha / rank) A B of kernels (Hu et al., ICLR 2022), all else frozen.

    A pattern, as of file names, names parameters by their paths, or what holds them: "visual" is a
    tower, "*/blocks/ln_*" are norms. Queries, keys and values of a vision transformer are maps of
    their own in one kernel: "visual/blocks/qkv/kernel:[qv]" are queries and values.

    Attributes:
      rank: r, of every update.
      alpha: times 1 / rank, how much an update counts.
      targets: patterns of the kernels that are updated; by default those of attention and MLP in
        all blocks of all towers, and of all convolutions in a residual network's.
      trained: patterns of what is trained as a whole beside them: projections, heads, temperatures.
    """

    rank: Positive = 8
    alpha: PositiveFloat = 8.0
    targets: Annotated[tuple[Name, ...], Filled()] = ("*/block*",)
    trained: tuple[Name, ...] = ()


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """Sizes of the mesh axes; one of them may be -1 and takes the devices that are left.

    Attributes:
      data: devices that share the batch.
      fsdp: devices that share the parameters, and the batch too.
    """

    data: _Axis = -1
    fsdp: _Axis = 1


@dataclasses.dataclass(frozen=True)
class ProfileConfig(Section):
    """Window of steps that the profiler traces.

    Attributes:
      first_step: the first step that is traced.
      steps: how many are traced; 0 traces nothing.
    """

    first_step: Count = 10
    steps: Count = 0


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """Length, batches and intervals of a run.

    Attributes:
      batch_size: samples of a step over all devices of all hosts.
      epochs: passes over the training split; `steps` wins where it is given.
      steps: steps of the whole run; None for as many as `epochs` need.
      horizon_epochs: length of the learning-rate schedule; None for that of the run.
      seed: of weights, of the order of the data and of everything random.
      microbatches: how many a batch is encoded in (gradient caching; the result is the same).
      text_multiple: padding after the longest text of a batch, in tokens up to a multiple of this,
        is not computed where it takes no part in any embedding; None keeps the context length.
      log_every, evaluate_every, checkpoint_every: in steps; evaluate_every 0 never evaluates.
      evaluate_epochs: in passes over the training split, which a run turns into `evaluate_every`;
        None: as often as that says.
      checkpoint_epochs: checkpoints are at least as frequent as that; None: `checkpoint_every`.
      keep: how many checkpoints stay.
      best: metric of the evaluations by which the best network is kept in `best/`, larger is better
        ("auroc"), or smaller with "-" before it ("-nll"); None keeps checkpoints alone.
      profile: the window of steps to trace.
    """

    batch_size: Positive = 256
    epochs: PositiveFloat = 10.0
    steps: Positive | None = None
    horizon_epochs: PositiveFloat | None = None
    seed: Seed = 0
    microbatches: Positive = 1
    text_multiple: Positive | None = 32
    log_every: Positive = 10
    evaluate_every: Count = 1000
    checkpoint_every: Positive = 1000
    evaluate_epochs: PositiveFloat | None = None
    checkpoint_epochs: PositiveFloat | None = None
    keep: Positive = 3
    best: Name | None = None
    profile: ProfileConfig = ProfileConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Section):
    """Evaluation during training and the defaults of `retfm evaluate`.

    Attributes:
      batch_size: samples embedded at a time, over all devices.
      languages: of prompts and reports.
      bootstrap: number of resamples for a confidence interval.
      cases: how many cases of the evaluation split, evenly from all of it, have their reports
        written at each evaluation of a run (networks that write reports only).
    """

    batch_size: Positive = 256
    languages: Annotated[tuple[Literal["en", "zh"], ...], Filled()] = ("en", "zh")
    bootstrap: Positive = 1000
    cases: Positive = 256


@dataclasses.dataclass(frozen=True)
class InitConfig(Section):
    """Weights before the first step; None initializes them at random.

    Each is a path, "hf:owner/name" of the Hub, or a name that `retfm models` lists.

    Attributes:
      weights: a whole network: a workdir, a checkpoint or a published file.
      image: an image tower: a workdir, or weights of any system that `retfm import` knows.
      text: a text tower: a Hugging Face BERT folder or file, or Chinese-CLIP weights.
    """

    weights: Name | None = None
    image: Name | None = None
    text: Name | None = None


@dataclasses.dataclass(frozen=True)
class ExperimentConfig(Section):
    """Whole experiment.

    Attributes:
      method: name of a method, or "module:Class" of one from outside this package.
      model: sizes of the network, the method's `config_class`.
      data, optimizer, mesh, train, evaluation, init: the other sections.
      lora: low-rank updates; None trains the parameters themselves.
    """

    method: str
    model: Any
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    init: InitConfig = InitConfig()
    lora: LoraConfig | None = None
