"""A network as ONNX files, in float32 and with integers of 8 bits."""

import contextlib
import logging
import pathlib
import time
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.extras import install
from retfm_jax.interop.bundles import bundle
from retfm_jax.interop.formats.base import PROGRAM, Exported, Form
from retfm_jax.interop.formats.programs import load_program, program_text, run_program, usage
from retfm_jax.interop.formats.torch import require_torch
from retfm_jax.interop.formats.torch_network import network_code, torch_tensors
from retfm_jax.methods.outputs import (
    CLASS_PROBABILITIES,
    IMAGE_EMBEDDING,
    PIXEL_PROBABILITIES,
    TEXT_EMBEDDING,
)

IMAGES, TEXTS = "image.onnx", "text.onnx"
INT8 = {IMAGES: "image_int8.onnx", TEXTS: "text_int8.onnx"}
_PROBABILITIES = (CLASS_PROBABILITIES, PIXEL_PROBABILITIES)
#: Of ONNX itself; what runtimes of 2023 and later read.
_OPSET = 18
#: A file of protocol buffers ends at 2 GB: larger networks have their weights beside it.
_LARGEST = 1_900_000_000
#: Shortest text: [CLS], a token, [SEP].
_SHORTEST = 3
#: Seconds that a speed is measured.
_SECONDS = 1.0
_LOAD = '''
def load(folder=None, int8=False, providers=None):
    """Opens the networks that lie beside this file, and makes a program of them.

    Args:
      folder: where they lie; None: where this file lies.
      int8: whether those with integers of 8 bits are taken, see README.md.
      providers: of onnxruntime, such as ["CUDAExecutionProvider"]; None: the CPU.
    """
    folder = pathlib.Path(__file__).parent if folder is None else pathlib.Path(folder)
    suffix = "_int8.onnx" if int8 else ".onnx"
    images = on_session(folder / f"image{suffix}", providers){texts}
    return {program}
'''


class Onnx(Form):
    """`image.onnx` and `text.onnx`, both also with 8 bits, and a program for onnxruntime."""

    name, library = "onnx", "onnx"
    copies = 2.5

    def check(self, network: Exported) -> None:
        """See `Form.check`."""
        require_torch()
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError(f"this export needs ONNX's packages: {install('onnx')}") from error
        network.require_told(self.name)

    def write(self, folder: pathlib.Path, network: Exported, photographs: Sequence[bytes]) -> None:
        """See `Form.write`."""
        texts = ""
        if network.texts:
            texts = '\n    texts = on_session(folder / f"text{suffix}", providers)'
        roots = [("retfm_jax.interop.parts.onnx_program", "on_session")]
        text = program_text(network, "ONNX", roots, "", _LOAD.replace("{texts}", texts))
        (folder / PROGRAM).write_text(text, encoding="utf-8")
        with _quiet():
            _write_networks(folder, network)
            program = load_program(folder)
            pixels = np.stack([program._pixels(each) for each in photographs])
            for name, smaller in INT8.items():
                if (folder / name).is_file():
                    _quantize(folder / name, folder / smaller, pixels)

    def run(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, np.ndarray]:
        """See `Form.run`."""
        return run_program(folder, photographs, texts)

    def measured(
        self, folder: pathlib.Path, photographs: Sequence[bytes], texts: Sequence[str]
    ) -> Mapping[str, Any]:
        """Measures what integers of 8 bits change, and how fast both are; see `Form.measured`."""
        exact, small = (load_program(folder, int8=int8) for int8 in (False, True))
        pixels = np.stack([exact._pixels(each) for each in photographs])
        rows = {IMAGES: (exact.run_images, small.run_images, pixels)}
        if texts:
            tokens = exact.tokenizer(list(texts))
            rows[TEXTS] = (exact.run_texts, small.run_texts, tokens)
        found = {}
        for name, (full, less, given) in rows.items():
            wanted, changed = full(given), less(given)
            found[name] = {
                "bytes": [_bytes(folder / name), _bytes(folder / INT8[name])],
                "a_second": [_speed(full, given), _speed(less, given)],
                "largest_difference": {
                    key: float(np.abs(changed[key] - wanted[key]).max())
                    for key in (*_PROBABILITIES, IMAGE_EMBEDDING, TEXT_EMBEDDING)
                    if key in wanted
                },
            }
            if PIXEL_PROBABILITIES in wanted:
                thresholds = exact.structures["thresholds"]
                found[name]["dice"] = _dice(wanted, changed, thresholds)
            else:
                found[name]["least_cosine"] = _least_cosine(wanted, changed)
                found[name]["same_class"] = _same_class(wanted, changed)
        return {"int8": found}

    def readme(self, network: Exported, measured: Mapping[str, Any]) -> list[str]:
        """See `Form.readme`."""
        size, length = network.data.image.size, network.data.text.context_length
        lines = [
            *usage(network),
            "",
            "`model.py` needs `onnxruntime`, `numpy`, `pillow` and `opencv-python-headless`, and "
            "nothing else.",
            "",
            f"- `{IMAGES}`: input `pixels` (n, {size}, {size}, 3) uint8, RGB, any n; normalization "
            "is in it.",
        ]
        if network.texts:
            lines.append(
                f"- `{TEXTS}`: input `tokens` (n, length) int32, padded with 0; any n, any length "
                f"(texts had {length} in training)."
            )
        lines += ["", "### Integers of 8 bits", ""]
        return lines + _int8_table(measured["int8"])


def _write_networks(folder: pathlib.Path, network: Exported) -> None:
    import torch
    from torch.export import Dim

    built = _torch_network(network)
    batch, size = Dim("n"), network.data.image.size
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    _write_network(folder / IMAGES, built, "images", {"pixels": pixels}, {0: batch})
    if network.texts:
        assert network.method.text is not None
        longest = network.method.text.positions
        length = Dim("length", min=_SHORTEST, max=longest)
        shown = min(network.data.text.context_length, longest - 1)
        tokens = torch.ones(2, max(shown, _SHORTEST + 1), dtype=torch.int32)
        _write_network(folder / TEXTS, built, "texts", {"tokens": tokens}, {0: batch, 1: length})


def _torch_network(network: Exported) -> Any:
    """The module `Network` with its weights, of the text that a PyTorch export has."""
    import torch

    roots, text = network_code(network)
    towers = bundle(roots)
    module = types.ModuleType("exported_network")
    module.__dict__["PREPROCESSING"] = network.preprocessing
    code = "\n".join([*towers.imports, towers.code, text])
    exec(compile(code, "exported_network", "exec"), module.__dict__)  # our own text, just written
    built = module.__dict__["Network"]()
    tensors = {name: torch.from_numpy(x.copy()) for name, x in torch_tensors(network).items()}
    built.load_state_dict(tensors)
    return built.eval()


def _write_network(
    path: pathlib.Path,
    built: Any,
    function: str,
    given: Mapping[str, Any],
    axes: Mapping[int, Any],
) -> None:
    """One function of the module as an ONNX file."""
    import torch

    ((taken, example),) = given.items()
    with torch.inference_mode():
        names = list(getattr(built, function)(example))
    built.forward = lambda values: tuple(getattr(built, function)(values).values())
    program = torch.onnx.export(
        built,
        (example,),
        dynamo=True,
        opset_version=_OPSET,
        dynamic_shapes=(dict(axes),),
        input_names=[taken],
        output_names=names,
        verbose=False,
    )
    assert program is not None
    weights = sum(each.numel() * each.element_size() for each in built.state_dict().values())
    program.save(path, external_data=weights > _LARGEST)


def _quantize(path: pathlib.Path, out: pathlib.Path, pixels: np.ndarray) -> None:
    """Writes a network whose products are of 8 bits.

    Of transformers the factors are rounded by what each call shows. Convolutions are fast only with
    bounds that are known before, from photographs.
    """
    from onnxruntime import quantization

    # Seven bits of weights: with eight, sums overflow on processors without VNNI.
    options: dict[str, Any] = {"per_channel": True, "reduce_range": True}
    large = path.stat().st_size < 1 << 20 < _bytes(path)
    if not _has_convolutions(path):
        quantization.quantize_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            use_external_data_format=large,
            **options,
        )
        return

    class Reader(quantization.CalibrationDataReader):
        rows = iter(pixels)

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else {"pixels": row[None]}

    quantization.quantize_static(
        path,
        out,
        Reader(),
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        use_external_data_format=large,
        **options,
    )


def _has_convolutions(path: pathlib.Path) -> bool:
    """Whether a network is one of many convolutions; a transformer has one, of its patches."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return sum(node.op_type == "Conv" for node in graph.node) > 1


def _bytes(path: pathlib.Path) -> int:
    """Bytes of a network, with those of weights that lie beside it."""
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


def _speed(run: Any, given: np.ndarray) -> float:
    """Rows a second, of calls with all of them."""
    run(given)
    calls, begun = 0, time.perf_counter()
    while not calls or time.perf_counter() - begun < _SECONDS:
        run(given)
        calls += 1
    return calls * len(given) / (time.perf_counter() - begun)


def _least_cosine(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Of unit-norm embeddings, to what they were."""
    name = IMAGE_EMBEDDING if IMAGE_EMBEDDING in wanted else TEXT_EMBEDDING
    return float((wanted[name] * found[name]).sum(1).min())


def _same_class(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float | None:
    """Share of rows whose largest probability is of the same class; None without classes."""
    if CLASS_PROBABILITIES not in wanted:
        return None
    before, after = (each[CLASS_PROBABILITIES].argmax(1) for each in (wanted, found))
    return float((before == after).mean())


def _dice(
    wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], thresholds: Sequence[float]
) -> float:
    """Dice of masks with what they were, over the pixels of all structures and photographs."""
    least = np.asarray(thresholds, np.float64)
    before, after = (each[PIXEL_PROBABILITIES] > least for each in (wanted, found))
    pixels = int(before.sum()) + int(after.sum())
    return 2 * int((before & after).sum()) / pixels if pixels else 1.0


def _int8_table(measured: Mapping[str, Any]) -> list[str]:
    """What is measured, a row for each network."""
    columns = ("network", "MB, float32", "MB, int8", "a second, float32", "a second, int8")
    masks = any("dice" in each for each in measured.values())
    columns += ("Dice of the masks with those of float32",) if masks else ("least cosine",)
    columns += ("largest difference of probabilities",) + (() if masks else ("same class",))
    lines = [
        "What rounding changes, on the photographs and texts of the parity report (the first are "
        "also those by which convolutions are rounded), and how fast it is on the processor that "
        "wrote this folder. It is not bound by the parity of float32.",
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for name, each in measured.items():
        (full, small), (slow, fast) = each["bytes"], each["a_second"]
        differences = each["largest_difference"]
        changed = next((differences[key] for key in _PROBABILITIES if key in differences), None)
        cells = [f"`{INT8[name]}`", f"{full / 1e6:.1f}", f"{small / 1e6:.1f}"]
        cells += [f"{slow:.1f}", f"{fast:.1f}", f"{each['dice' if masks else 'least_cosine']:.4f}"]
        cells.append("-" if changed is None else f"{changed:.3f}")
        if not masks:
            same = each["same_class"]
            cells.append("-" if same is None else f"{same:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch.onnx and onnxruntime say of their own business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "root", "onnxscript", None)]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


FORM = Onnx()
