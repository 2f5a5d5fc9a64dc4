"""A network as one PyTorch file and its weights."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.extras import install
from retfm_jax.interop.formats.base import PROGRAM, WORDS, Exported, Form
from retfm_jax.interop.formats.programs import program_text, run_program, usage
from retfm_jax.interop.formats.torch_network import network_code, torch_tensors

WEIGHTS = "weights.pt"
_LOAD = '''
def load(folder=None, device="cpu"):
    """Reads the weights that lie beside this file, and makes a program of them.

    Args:
      folder: where they lie; None: where this file lies.
      device: of PyTorch, on which the network computes.
    """
    folder = pathlib.Path(__file__).parent if folder is None else pathlib.Path(folder)
    network = Network()
    tensors = torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(tensors)
    network.eval().to(device)
    images = on_arrays(network.images, network){texts}
    program = {program}
    program.network = network
    return program
'''


class Torch(Form):
    """`model.py`, which needs PyTorch, NumPy, Pillow and OpenCV, and `weights.pt`."""

    name, library = "torch", "pytorch"
    writes_reports = True

    def check(self, network: Exported) -> None:
        """See `Form.check`."""
        require_torch()
        network.require_told(self.name)

    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """See `Form.write`."""
        write_torch(folder, network)

    def run(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """See `Form.run`."""
        return run_program(folder, photographs, texts)

    def readme(self, network: Exported, measured: Mapping[str, Any]) -> list[str]:
        """See `Form.readme`."""
        told = []
        if network.writer is not None:
            told = [
                "",
                "`python model.py left.jpg right.jpg` prints the report of the case; "
                f'`--beams 1` is greedy, and `""` an eye that is missing. `{WORDS}` has the words '
                "in the order of their ids from 1.",
            ]
        return [
            *usage(network),
            *told,
            "",
            "`model.py` needs `torch`, `numpy`, `pillow` and `opencv-python-headless`, and nothing "
            f"else. `{WEIGHTS}` is read with `weights_only=True`. `load().network` is a plain "
            "`torch.nn.Module`, which can be trained on; its method `normalized_images` takes what "
            "image networks take in PyTorch.",
        ]


def require_torch() -> None:
    """Refuses to begin without PyTorch.

    Raises:
      UserError: it is missing.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UserError(f"this export needs PyTorch: {install('torch')}") from error


def write_torch(folder: pathlib.Path, network: Exported) -> None:
    """Writes the program and its weights.

    Args:
      folder: exists.
      network: whose outputs are told.
    """
    import torch

    texts = "\n    texts = on_arrays(network.texts, network)" if network.texts else ""
    roots, own = network_code(network)
    roots.append(("retfm_jax.interop.parts.torch_program", "on_arrays"))
    text = program_text(network, "PyTorch", roots, own, _LOAD.replace("{texts}", texts))
    (folder / PROGRAM).write_text(text, encoding="utf-8")
    tensors = {name: torch.from_numpy(x.copy()) for name, x in torch_tensors(network).items()}
    torch.save(tensors, folder / WEIGHTS)


FORM = Torch()
