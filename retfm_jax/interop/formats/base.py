"""What all forms of an export have in common: what is exported, and what a form does."""

import abc
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from retfm_jax.config import DataConfig
from retfm_jax.decisions import Decisions
from retfm_jax.errors import UserError, first_of
from retfm_jax.mask_decisions import MaskDecisions
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.methods.outputs import Output, PixelDecoder, ReportWriter, TowerMaps

_Behind = TypeVar("_Behind", PixelDecoder, ReportWriter)
#: Files of an export.
PROGRAM, PREPROCESSING, CLASSES, STRUCTURES, TOKENIZER, WORDS = (
    "model.py", "preprocessing.json", "classes.json", "structures.json", "tokenizer.json",
    "words.json",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Exported:
    """Network with all that an export needs to know.

    Attributes:
      title: of the network, for documents.
      method: computes in float32, whatever the network was trained in.
      params, state: its arrays.
      data: preprocessing of photographs and texts.
      decisions: of its classes; None without any.
      mask_decisions: of its structures; None without any.
      scale: factor on cosines before a softmax over texts.
      wordpieces: whether texts can be tokenized by `interop.parts.tokenizer`.
    """

    title: str
    method: Method
    params: Params
    state: MethodState
    data: DataConfig
    decisions: Decisions | None = None
    mask_decisions: MaskDecisions | None = None
    scale: float = 1.0
    wordpieces: bool = False

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a photograph becomes pixels, and pixels the network's input, as JSON values."""
        said = dataclasses.asdict(self.data.image)
        if self.mask_decisions is not None:
            masks = self.data.masks
            said["masks"] = {"geometry": masks.geometry, "working_size": masks.working_size}
        if self.writer is not None:
            said["case_images"] = self.data.case_images
        return json.loads(json.dumps(said))

    @property
    def texts(self) -> bool:
        """Tells whether the network embeds texts."""
        return self.method.text is not None

    @property
    def exclusive(self) -> bool:
        """Tells whether a pixel shows one structure at most."""
        return self.method.exclusive_structures

    def told(self, kind: type) -> tuple[Output, ...]:
        """Outputs whose tower is of a kind.

        Args:
          kind: `outputs.ImageTower`, `outputs.TowerMaps` or `outputs.TextTower`.
        """
        return tuple(each for each in self.method.outputs if isinstance(each.tower, kind))

    @property
    def maps(self) -> tuple[TowerMaps, PixelDecoder] | None:
        """The tower and the decoder of a network that finds structures; None of others."""
        return self._behind_maps(PixelDecoder)

    @property
    def writer(self) -> tuple[TowerMaps, ReportWriter] | None:
        """The tower and the transformer of a network that writes reports; None of others."""
        return self._behind_maps(ReportWriter)

    def _behind_maps(self, kind: type[_Behind]) -> tuple[TowerMaps, _Behind] | None:
        for output in self.told(TowerMaps):
            tower, *steps = output.steps
            if isinstance(tower, TowerMaps) and len(steps) == 1 and isinstance(steps[0], kind):
                return tower, steps[0]
        return None

    def require_told(self, form: str) -> None:
        """Refuses networks whose outputs are not told in steps.

        Args:
          form: of the export, for the message.

        Raises:
          UserError: they are not.
        """
        if not self.method.outputs:
            raise UserError(
                f"the method {self.method.name} does not tell its outputs in steps "
                f"(Method.outputs), so that there is no {form} export of it: stablehlo takes "
                "every network"
            )

    def require_vectors(self, library: str) -> None:
        """Refuses networks that find structures.

        Args:
          library: whose folders hold towers, and heads for classes, for the message.

        Raises:
          UserError: the network is one of them.
        """
        if self.mask_decisions is not None:
            raise UserError(
                f"{library} has no model of an image tower with this decoder for "
                f"{first_of(self.mask_decisions.structures, 5)}: export to torch, onnx, stablehlo "
                "or saved_npz"
            )


class Form(abc.ABC):
    """One form of an export.

    Attributes:
      name: of the form.
      library: that reads it, by the name that the Hugging Face Hub has for it.
      copies: how many times the bytes of the weights the folder takes at most.
      writes_reports: whether it has programs that search for the words of reports.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    copies: ClassVar[float] = 1.0
    writes_reports: ClassVar[bool] = False

    @abc.abstractmethod
    def check(self, network: Exported) -> None:
        """Refuses what the form does not have, before anything is computed.

        Args:
          network: what is to be exported.

        Raises:
          UserError: the form does not fit the network, or a package is missing.
        """

    @abc.abstractmethod
    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """Writes the network and its program.

        Args:
          folder: exists, with what every export has.
          network: what is exported.
          photographs: encoded, by which forms can choose how they round.
        """

    @abc.abstractmethod
    def run(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """Computes outputs from the folder alone, by name, as its user will.

        Args:
          folder: that `write` filled in this process.
          photographs: encoded.
          texts: () where the network takes none.
        """

    def measured(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, Any]:
        """What the report says beside parity, as JSON values; by default nothing.

        Args:
          folder, photographs, texts: as for `run`.
        """
        return {}

    def readme(self, network: Exported, measured: Mapping[str, Any]) -> list[str]:
        """Lines on how the folder is used, in Markdown.

        Args:
          network: what is exported.
          measured: of `measured`.
        """
        return []
