"""What all forms of an export have in common: what is exported, and what a form does."""

import abc
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from retfm_jax.config import DataConfig
from retfm_jax.decisions import Decisions
from retfm_jax.errors import UserError
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.methods.outputs import Output

#: Files of an export.
PROGRAM, PREPROCESSING, CLASSES, TOKENIZER = (
    "model.py", "preprocessing.json", "classes.json", "tokenizer.json"
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
      scale: factor on cosines before a softmax over texts.
      wordpieces: whether texts can be tokenized by `interop.parts.tokenizer`.
    """

    title: str
    method: Method
    params: Params
    state: MethodState
    data: DataConfig
    decisions: Decisions | None = None
    scale: float = 1.0
    wordpieces: bool = False

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a photograph becomes pixels, and pixels the network's input, as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self.data.image)))

    @property
    def texts(self) -> bool:
        """Tells whether the network embeds texts."""
        return self.method.text is not None

    def told(self, kind: type) -> tuple[Output, ...]:
        """Outputs whose tower is of a kind.

        Args:
          kind: `outputs.ImageTower` or `outputs.TextTower`.
        """
        return tuple(each for each in self.method.outputs if isinstance(each.tower, kind))

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


class Form(abc.ABC):
    """One form of an export.

    Attributes:
      name: of the form.
      library: that reads it, by the name that the Hugging Face Hub has for it.
      copies: how many times the bytes of the weights the folder takes at most.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    copies: ClassVar[float] = 1.0

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
