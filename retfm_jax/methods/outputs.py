"""What networks give of photographs and of texts, told in steps that other programs can repeat.

A method tells its outputs (`Method.outputs`); whoever writes a network for PyTorch or ONNX reads
them and never asks which method it is. Each output begins with a tower and goes on with steps that
take vectors (b, d) and give vectors (b, e); or it begins with feature maps of a tower, of which a
decoder makes logits of pixels, or a transformer writes a report.
"""

import dataclasses
from typing import Literal

from retfm_jax.models import bert, caption, resnet, unet, unetr, vit

#: What the outputs are called, everywhere.
IMAGE_EMBEDDING, IMAGE_FEATURES = "image_embedding", "image_features"
TEXT_EMBEDDING, CLASS_LOGITS = "text_embedding", "class_logits"
#: Calibrated, beside the logits.
CLASS_PROBABILITIES = "class_probabilities"
#: Of every pixel of the network's input, (n, h, w, k) and (n, h, w, c).
PIXEL_LOGITS, PIXEL_PROBABILITIES = "pixel_logits", "pixel_probabilities"
#: Of every pixel of photographs at their own size, one behind the other, (pixels, c).
PHOTOGRAPH_PROBABILITIES = "photograph_probabilities"
#: Of each word of the vocabulary after each word of a report, (n, words, v).
WORD_LOG_PROBABILITIES = "word_log_probabilities"
#: Of reports that were searched for: ids of their words (n, words), and their scores (n,).
REPORT_WORDS, REPORT_SCORES = "report_words", "report_scores"


@dataclasses.dataclass(frozen=True)
class ImageTower:
    """Image tower: normalized photographs -> vectors.

    Attributes:
      config: its sizes, whose type says which tower it is.
      projected: whether its projected embedding is meant, else the features before it.
      path: of its parameters.
      norm: path of the norm that takes the place of the tower's last one; None: its own.
    """

    config: vit.ViTConfig | resnet.ResNetConfig
    projected: bool
    path: str = "visual"
    norm: str | None = None


@dataclasses.dataclass(frozen=True)
class TowerMaps:
    """Image tower: normalized photographs -> feature maps of several levels.

    Attributes:
      config: its sizes, whose type says which tower it is.
      levels: of the maps, as its `maps` takes them.
      path: of its parameters.
    """

    config: vit.ViTConfig | resnet.ResNetConfig
    levels: tuple[int, ...]
    path: str = "visual"


@dataclasses.dataclass(frozen=True)
class PixelDecoder:
    """Decoder: feature maps and normalized photographs -> logits of every pixel.

    Attributes:
      config: its form, whose type says which decoder it is.
      outputs: logits of a pixel.
      exclusive: whether a pixel shows one structure at most; the first logit is then the
        background's, and probabilities are a softmax, else sigmoids.
      path: of its parameters.
    """

    config: unet.UnetConfig | unetr.UnetrConfig
    outputs: int
    exclusive: bool
    path: str = "decoder"


@dataclasses.dataclass(frozen=True)
class ReportWriter:
    """Transformer: the last feature maps of the photographs of a case -> words of its report.

    Attributes:
      config: its sizes.
      vocabulary: number of ids, 0 and the words.
      path: of its parameters.
      places: path of what is added to the patches of each place in the case, whose words attend to
        all of them; None: the maps are averaged.
    """

    config: caption.CaptionerConfig
    vocabulary: int
    path: str = "captioner"
    places: str | None = None


@dataclasses.dataclass(frozen=True)
class TextTower:
    """Text tower: token ids -> vectors, a mean over hidden states and over tokens.

    Attributes:
      config: its sizes.
      states: whose mean is taken, by number: 0 the embeddings', -1 the last layer's.
      tokens: "first", the token [CLS]; the mean over "all" positions, padding included; or the mean
        over the "text" without padding.
      path: of its parameters.
    """

    config: bert.BertConfig
    states: tuple[int, ...] = (-1,)
    tokens: Literal["first", "all", "text"] = "first"
    path: str = "bert"


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """Linear map `x kernel + bias`.

    Attributes:
      path: of its kernel and, where there is one, its bias; or of a matrix (inputs, outputs).
    """

    path: str


@dataclasses.dataclass(frozen=True)
class Relu:
    """The larger one of x and 0."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Division by the Euclidean norm."""


@dataclasses.dataclass(frozen=True)
class Twice:
    """The vector beside itself: a patient of whom one eye is known."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Product with a number.

    Attributes:
      factor: the number; or the path of a parameter () that is its logarithm.
    """

    factor: float | str


#: What an output begins with.
AnyTower = ImageTower | TowerMaps | TextTower
Step = AnyTower | PixelDecoder | ReportWriter | LinearMap | Relu | Unit | Twice | Scale


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
      name: one of the names above.
      steps: from a tower to the output.
    """

    name: str
    steps: tuple[Step, ...]

    @property
    def tower(self) -> AnyTower:
        """The tower that it begins with.

        Raises:
          ValueError: it begins with none.
        """
        first = self.steps[0] if self.steps else None
        if not isinstance(first, AnyTower):
            raise ValueError(f"the output {self.name} begins with no tower")
        return first


def image_outputs(
    config: vit.ViTConfig | resnet.ResNetConfig, *behind: Step, norm: str | None = None
) -> tuple[Output, Output]:
    """Tells embedding and features of an image tower at `visual`.

    Args:
      config: sizes of the tower.
      behind: steps from the tower's own embedding to the image's; without any it is divided by its
        norm.
      norm: see `ImageTower`.
    """
    projected, features = (ImageTower(config, which, norm=norm) for which in (True, False))
    return (
        Output(IMAGE_EMBEDDING, (projected, *(behind or (Unit(),)))),
        Output(IMAGE_FEATURES, (features,)),
    )
