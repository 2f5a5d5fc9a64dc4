"""Networks of workdirs as programs that go without this package, checked before they exist."""

import dataclasses
import importlib.metadata
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from retfm_jax.captioning import Search, checked, read_case
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.image_files import read
from retfm_jax.data.images import decode, fit
from retfm_jax.data.text import save_tokenizer
from retfm_jax.data_builders.synthetic_fundus.drawing import draw_eye, encode
from retfm_jax.data_builders.synthetic_fundus.population import POPULATIONS, draw_patient
from retfm_jax.errors import UserError
from retfm_jax.experiments.photograph_list import photographs_of
from retfm_jax.files import (
    PathLike,
    as_path,
    check_writable,
    is_remote,
    whole_folder,
    write_json,
)
from retfm_jax.interop.formats import get_form
from retfm_jax.interop.formats.base import (
    CLASSES,
    PREPROCESSING,
    STRUCTURES,
    TOKENIZER,
    WORDS,
    Exported,
    Form,
)
from retfm_jax.interop.formats.programs import (
    AT_OWN_SIZE,
    BEAMS,
    cases_of,
    drawn_words,
    of_pixels,
)
from retfm_jax.interop.hub_folder import (
    HUB_FOLDER,
    began_with,
    public,
    public_decisions,
    public_origin,
)
from retfm_jax.interop.model_card import Export, model_card
from retfm_jax.interop.word_files import write_words
from retfm_jax.methods import make_method
from retfm_jax.methods.outputs import (
    CLASS_LOGITS,
    CLASS_PROBABILITIES,
    IMAGE_EMBEDDING,
    IMAGE_FEATURES,
    PHOTOGRAPH_PROBABILITIES,
    PIXEL_LOGITS,
    PIXEL_PROBABILITIES,
    REPORT_SCORES,
    REPORT_WORDS,
    TEXT_EMBEDDING,
    WORD_LOG_PROBABILITIES,
)
from retfm_jax.model import RetinalModel, load

#: The report of an export, which completes its folder.
PARITY = "parity.json"
#: Photographs and texts that are compared; photographs of a network that finds structures, of
#: which every pixel is; and photographs of which cases are made, of one that writes reports.
COUNT, COUNT_OF_MASKS, COUNT_OF_REPORTS = 16, 4, 8
#: Largest difference of each output that an export may have. Vectors of unit norm and probabilities
#: differ as they are; features, logits and logarithms, which have any size, by the largest of their
#: values; and ids of words not at all.
BOUNDS = {
    CLASS_PROBABILITIES: 1e-5,
    IMAGE_EMBEDDING: 1e-5,
    TEXT_EMBEDDING: 1e-5,
    IMAGE_FEATURES: 1e-4,
    CLASS_LOGITS: 1e-4,
    PIXEL_LOGITS: 1e-4,
    PIXEL_PROBABILITIES: 1e-4,
    PHOTOGRAPH_PROBABILITIES: 1e-4,
    WORD_LOG_PROBABILITIES: 1e-4,
    REPORT_SCORES: 1e-4,
    REPORT_WORDS: 0.0,
}
_RELATIVE = (
    IMAGE_FEATURES, CLASS_LOGITS, PIXEL_LOGITS, WORD_LOG_PROBABILITIES, REPORT_SCORES
)  # fmt: skip
#: What is left free on a disk beside the weights, bytes.
_SPARE = 1 << 26
_TEXTS = (
    "右眼视网膜动脉硬化，黄斑区可见硬性渗出。",
    "左眼：视乳头边界清，C/D约0.3；黄斑中心凹反光可见。",
    "A fundus photograph of a normal eye.",
    "Moderate non-proliferative diabetic retinopathy, OD; macular edema?",
    "drusen",
    "双眼豹纹状眼底，“近视弧形斑”。",
    "naïve café – ｆｕｌｌｗｉｄｔｈ ＡＢＣ, 20/40",
    "(cup-to-disc ratio 0.8), glaucoma suspect [OS]",
)


class Difference(NamedTuple):
    """Largest difference of one output from this package's.

    Attributes:
      largest: over all photographs or texts.
      bound: that it may have.
      shape: of the output.
    """

    largest: float
    bound: float
    shape: tuple[int, ...]


class Made(NamedTuple):
    """Report of an export.

    Attributes:
      parity: by output.
      photographs: how many were compared, and what they are.
      measured: what the form measured beside.
    """

    parity: Mapping[str, Difference]
    photographs: str
    measured: Mapping[str, Any]


def export_program(
    workdir: PathLike, to: str, out: PathLike, images: PathLike | None = None
) -> Made:
    """Writes a network in a form that others run, if it computes what this package computes.

    Args:
      workdir: of the network, its checkpoint folder, or weights as `model.load` takes them.
      to: one of `interop.formats.ABOUT`.
      out: new folder.
      images: photographs for the comparison, as a folder, a CSV with a column `image` or one file,
        of which up to `COUNT` are taken, `COUNT_OF_MASKS` for a network that finds structures,
        `COUNT_OF_REPORTS` for one that writes reports; None: generated ones.

    Returns:
      what was compared and measured; it is also in the folder.

    Raises:
      UserError: the network has no such form, a package is missing, nothing can be written there,
        or the outputs differ by more than their bounds; nothing is left behind.
    """
    form = get_form(to)
    out = as_path(out)
    check_writable(out / PARITY)
    _refuse_taken(out)
    return write_program(load(workdir), form, out, images)


def write_program(
    model: RetinalModel, form: Form, out: PathLike, images: PathLike | None = None
) -> Made:
    """Writes a network in a form, as `export_program` does with one that is stored.

    Args:
      model: its network is exported.
      form: of the export.
      out, images: see `export_program`.

    Raises:
      UserError: see `export_program`.
    """
    out = as_path(out)
    if model.method.vocabulary:
        model.require_words()
        if not form.writes_reports:
            raise UserError(
                f"a {model.method.name} network writes its reports word by word in a search, of "
                f"which there is no {form.name} export: export it to torch, or its weights to "
                f"{model.method.name} or {HUB_FOLDER}"
            )
    exact = _exact(model)
    network = _exported(exact)
    if network.maps is not None:
        model.require_structures()
    form.check(network)
    _require_space(out, exact, form)
    photographs, what = _photographs(exact, images)
    texts = _TEXTS * (COUNT // len(_TEXTS)) if network.wordpieces else ()
    if network.mask_decisions is not None:
        expected = _pixel_outputs(exact, photographs)
    elif network.writer is not None:
        expected = _report_outputs(exact, photographs)
    else:
        expected = _outputs(exact, photographs, texts)
    with whole_folder(out, last=PARITY) as folder:
        _write_shared(folder, exact, network)
        form.write(folder, network, photographs)
        parity = _compared(expected, form.run(folder, photographs, texts), form)
        measured = form.measured(folder, photographs, texts)
        _write_report(folder, form, parity, what, len(texts), measured)
        use = form.readme(network, measured)
        (folder / "README.md").write_text(
            _card(exact, form, [*use, "", *_parity_lines(parity, what)]), encoding="utf-8"
        )
    return Made(parity, what, measured)


def _refuse_taken(out: pathlib.Path | Any) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give a new folder")


def _exact(model: RetinalModel) -> RetinalModel:
    """The model as it computes in float32."""
    sizes = model.config.model
    if getattr(sizes, "dtype", "float32") == "float32":
        return model
    config = dataclasses.replace(model.config, model=dataclasses.replace(sizes, dtype="float32"))
    stored = model.stored._replace(method=make_method(config.method, config.model), config=config)
    return RetinalModel(*stored)


def _exported(model: RetinalModel) -> Exported:
    texts = model.method.text is not None
    return Exported(
        title=(model.origin and model.origin.title) or f"{model.method.name} network",
        method=model.method,
        params=model.params,
        state=model.state,
        data=model.data_config,
        decisions=model.decisions and public_decisions(model.decisions),
        mask_decisions=model.mask_decisions and public_decisions(model.mask_decisions),
        scale=model.logit_scale,
        wordpieces=texts and model.tokenizer.is_word_pieces,
    )


def _require_space(out: Any, model: RetinalModel, form: Form) -> None:
    """Refuses a disk that cannot take the export."""
    if is_remote(out):
        return
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(model.params))
    needed = int(weights * form.copies) + _SPARE
    above = next(each for each in (out, *out.absolute().parents) if each.exists())
    free = shutil.disk_usage(above).free
    if free < needed:
        raise UserError(
            f"{above} has {free / 1e9:.2f} GB free, and this export needs {needed / 1e9:.2f} GB: "
            "make room, or give another folder"
        )


def _photographs(model: RetinalModel, images: PathLike | None) -> tuple[list[bytes], str]:
    """Encoded photographs for the comparison, and what they are in words."""
    count = COUNT_OF_MASKS if model.structures else COUNT
    if model.method.vocabulary:
        count = COUNT_OF_REPORTS
    if images is None:
        return _generated(count), f"{count} generated fundus photographs"
    paths, unusable = photographs_of(images)
    found: list[bytes] = []
    for path in paths:
        try:
            data = read(path)
            model.decode(data, str(path))
        except UserError as error:
            unusable.append(str(error))
            continue
        found.append(data)
        if len(found) == count:
            break
    if not found:
        first = f": {unusable[0]}" if unusable else ""
        raise UserError(f"images {images}: none of its images can be used{first}")
    return found, f"{len(found)} photographs of {as_path(images).name or 'a folder'}"


def _generated(count: int) -> list[bytes]:
    """Photographs of generated patients, of several sizes and shapes."""
    found = []
    for number in range(count):
        patient = draw_patient(POPULATIONS["clinic"], 0, "test", number)
        picture = draw_eye(patient.eyes[0], patient.look, 200 + 24 * number)
        if number % 2:  # most cameras' pictures are wider than high
            side = picture.shape[0] // 6
            picture = np.pad(picture, ((0, 0), (side, side), (0, 0)))
        found.append(encode(picture))
    return found


def _outputs(
    model: RetinalModel, photographs: Sequence[bytes], texts: Sequence[str]
) -> dict[str, np.ndarray]:
    """What this package computes, in full precision on any device."""
    functions = {IMAGE_EMBEDDING: model.encode_images, IMAGE_FEATURES: model.image_features}
    found = {}
    with jax.default_matmul_precision("highest"):
        for name, function in functions.items():
            try:
                found[name] = function(list(photographs))
            except NotImplementedError:  # networks differ in what they have
                continue
        if model.decisions is not None:
            found[CLASS_LOGITS] = model.class_logits(list(photographs))
            found[CLASS_PROBABILITIES] = model.decisions.probabilities(found[CLASS_LOGITS])
        if texts:
            found[TEXT_EMBEDDING] = model.encode_texts(list(texts))
    return found


def _pixel_outputs(model: RetinalModel, photographs: Sequence[bytes]) -> dict[str, np.ndarray]:
    """What this package computes of pixels, of photographs as a whole and at their own size."""
    image = model.data_config.image
    pixels = np.stack([fit(decode(data, "photograph"), image) for data in photographs])
    with jax.default_matmul_precision("highest"):
        logits = model.picture_logits(pixels)
        own = [model.segment(data) for data in photographs[:AT_OWN_SIZE]]
    return {
        PIXEL_LOGITS: logits,
        PIXEL_PROBABILITIES: np.asarray(model.method.probabilities(jnp.asarray(logits))),
        PHOTOGRAPH_PROBABILITIES: of_pixels(own),
    }


def _report_outputs(model: RetinalModel, photographs: Sequence[bytes]) -> dict[str, np.ndarray]:
    """What this package computes of cases: of words that are read, and of reports it writes."""
    cases = cases_of(photographs, model.data_config.case_images)
    rows = [read_case(model, case, f"case {number}").arrays for number, case in enumerate(cases)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    ids = model.method.vocabulary
    searches = [checked(model, Search(min(beams, ids))) for beams in BEAMS]
    length = model.data_config.text.context_length
    given = prepare(batch, model.data_config.image)
    given["tokens"] = jnp.asarray(drawn_words(len(cases), length, ids))
    devices = jax.local_devices()[:1]
    with jax.default_matmul_precision("highest"):
        read = model.features(given)["log_probabilities"]
        found = [model.best_reports(batch, search, devices) for search in searches]
    return {
        WORD_LOG_PROBABILITIES: np.asarray(read),
        REPORT_WORDS: np.stack([each["words"] for each in found]),
        REPORT_SCORES: np.stack([each["scores"] for each in found]),
    }


def _compared(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], form: Form
) -> dict[str, Difference]:
    """Differences by output.

    Raises:
      UserError: one is larger than its bound, or nothing can be compared.
    """
    parity = {}
    for name, value in found.items():
        if name not in expected:
            continue
        wanted = expected[name]
        if value.shape != wanted.shape:
            raise UserError(
                f"the {form.name} export computes {name} of shape {value.shape}, this package "
                f"{wanted.shape}: nothing is written"
            )
        scale = float(np.abs(wanted).max()) or 1.0 if name in _RELATIVE else 1.0
        largest = float(np.abs(value.astype(np.float64) - wanted).max()) / scale
        parity[name] = Difference(largest, BOUNDS[name], value.shape)
    if not parity:
        raise UserError(f"the {form.name} export computes nothing that could be compared")
    if REPORT_WORDS in parity and parity[REPORT_WORDS].largest:
        raise UserError(
            f"the {form.name} export writes other reports than this package, as can be where words "
            "are almost equally likely, of a network that has hardly learned: nothing is written; "
            "try other photographs (images), or a network that has learned more"
        )
    for name, each in parity.items():
        if not each.largest <= each.bound:  # NaN too
            raise UserError(
                f"the {form.name} export differs from this package in {name}: by "
                f"{each.largest:.2g} where {each.bound:.0e} is allowed; nothing is written"
            )
    return parity


def _write_shared(folder: pathlib.Path, model: RetinalModel, network: Exported) -> None:
    """What every export has beside its network."""
    write_json(folder / PREPROCESSING, network.preprocessing)
    if network.decisions is not None:
        write_json(folder / CLASSES, network.decisions.to_json())
    if network.mask_decisions is not None:
        write_json(folder / STRUCTURES, network.mask_decisions.to_json())
    if network.texts and network.wordpieces:
        save_tokenizer(model.data_config.text, folder)
        assert (folder / TOKENIZER).is_file()
    if network.writer is not None:
        write_words(folder / WORDS, model.data_config.text)


def _write_report(
    folder: pathlib.Path,
    form: Form,
    parity: Mapping[str, Difference],
    photographs: str,
    texts: int,
    measured: Mapping[str, Any],
) -> None:
    packages = ("retfm-jax", "jax", "numpy", "torch", "onnx", "onnxruntime", "transformers", "timm")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    outputs = {
        name: {
            "largest_difference": each.largest,
            "of": "the largest value" if name in _RELATIVE else "1",
            "bound": each.bound,
            "shape": list(each.shape),
        }
        for name, each in parity.items()
    }
    report = {
        "form": form.name,
        "photographs": photographs,
        "texts": texts,
        "outputs": outputs,
        "versions": versions,
    }
    write_json(folder / PARITY, report | dict(measured))


def _parity_lines(parity: Mapping[str, Difference], photographs: str) -> list[str]:
    """The table of differences, in Markdown."""
    lines = [
        "## Parity",
        "",
        f"Largest differences from what retfm_jax computes in float32, on {photographs}. Features, "
        "logits and logarithms are compared by the largest of their values.",
        "",
        "| output | largest difference | allowed |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {each.largest:.1e} | {each.bound:.0e} |" for name, each in parity.items()
    ]
    if REPORT_WORDS in parity:
        searches, cases, _ = parity[REPORT_WORDS].shape
        lines += [
            "",
            f"Of these photographs {cases} cases were made. The reports that are written of them, "
            f"greedily and with {BEAMS[-1]} beams, have the same words in all {searches * cases} "
            f"searches, and scores (sums of ln p) that differ as above; "
            f"{WORD_LOG_PROBABILITIES} are ln p of every word after each word of reports that "
            "consist of random words.",
        ]
    return lines


def _card(model: RetinalModel, form: Form, use: list[str]) -> str:
    config = public(model.config)
    return model_card(
        config,
        public_origin(model.origin),
        model.notes,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        began_with=began_with(model.config.init),
        export=Export(form.library, use),
        decisions=model.decisions and public_decisions(model.decisions),
        mask_decisions=model.mask_decisions and public_decisions(model.mask_decisions),
    )
