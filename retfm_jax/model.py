"""Trained network with its preprocessing, for notebooks and programs."""

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import jax
import numpy as np
import PIL.Image
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Int32, UInt8

from retfm_jax import captioning, heatmaps, hub, zero_shot
from retfm_jax.config import (
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    from_dict,
    load_config,
    to_dict,
)
from retfm_jax.config.stored_paths import located
from retfm_jax.data import image_files
from retfm_jax.data.arrays import array_to_rgb, pil_to_rgb
from retfm_jax.data.device_augment import prepare
from retfm_jax.data.images import ImageError, decode, describe, fit
from retfm_jax.data.kinds import get_kind
from retfm_jax.data.text import Tokenizer, fitting_tokenizer
from retfm_jax.data.windows import photograph_logits
from retfm_jax.decisions import FILE as DECISIONS
from retfm_jax.decisions import WEIGHTS, Decisions, default_decisions, read_decisions
from retfm_jax.errors import Unusable, UserError, first_of
from retfm_jax.files import Path, PathLike, as_path
from retfm_jax.inputs import as_array, as_batch, as_classes, as_images, as_texts
from retfm_jax.interop.hub_folder import Stored, read_hub_folder, write_hub_folder
from retfm_jax.interop.sources import Source, find_weights, is_place
from retfm_jax.interop.zoo import Origin
from retfm_jax.knowledge.prompts import WeightedPrompt
from retfm_jax.knowledge.wording import ReportWording
from retfm_jax.mask_decisions import MaskDecisions, default_mask_decisions
from retfm_jax.methods import get_method_class, make_method
from retfm_jax.methods.base import Batch, Method, MethodState, Params
from retfm_jax.methods.dual_encoder import DualEncoder, as_dual_encoder
from retfm_jax.progress import progress_bar
from retfm_jax.runtime.mesh import Device, batch_sharding, make_mesh, replicated, traced_on
from retfm_jax.runtime.threads import cores, in_threads
from retfm_jax.table import Table
from retfm_jax.zero_shot import Embedding

#: An image as users have it: a path, encoded bytes, a PIL image, or an array (uint8 or float 0..1;
#: gray, RGB or RGBA).
Image = str | os.PathLike | bytes | PIL.Image.Image | np.ndarray

#: Samples of one call of the network, where there are few and where there are more; the last ones
#: are padded, so that it compiles for two sizes, and one photograph does not pay for many.
_FEW, _CHUNK = 4, 32
#: Pixels whose probabilities are computed at once.
_PIXELS = 1 << 18


class RetinalModel:
    """Network of any method, its weights, and the preprocessing that belongs to them.

    Attributes:
      method: the method, with its configuration.
      params, state: its arrays.
      config: the experiment that the weights come from.
      wording: of the reports that they were trained with, for prompts; None where it is unknown.
      notes: sentences on where the weights come from: what was found in their file and what was
        guessed.
      origin: of weights that were imported, with their license; None of those of a training run.
      decisions: what turns logits of classes into probabilities and statements, the defaults
        (`decisions.default_decisions`) where nothing was fitted; None of a network without classes.
      mask_decisions: what turns probabilities of pixels into masks, thresholds of one half where
        nothing was fitted; None of a network without structures.

    Raises:
      UserError: the decisions are of other classes or structures than the network's.
    """

    def __init__(
        self,
        method: Method,
        params: Params,
        state: MethodState,
        config: ExperimentConfig,
        wording: ReportWording | None = None,
        notes: Sequence[str] = (),
        origin: Origin | None = None,
        decisions: Decisions | None = None,
        mask_decisions: MaskDecisions | None = None,
    ):
        self.method, self.params, self.state, self.config = method, params, state, config
        self.wording, self.notes, self.origin = wording, tuple(notes), origin
        self.decisions = _fitting_decisions(method, decisions)
        self.mask_decisions = _fitting_mask_decisions(method, mask_decisions)
        self._tokenizer: Tokenizer | None = None
        #: The parameters that were copied to all devices, their copies, and the devices.
        self._copies: tuple[Params, tuple[Params, MethodState], Mesh] | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """Description that a checkpoint stores beside the arrays, as JSON values."""
        said: dict[str, Any] = {"notes": list(self.notes)} if self.notes else {}
        if self.wording is not None:
            said["wording"] = self.wording.to_json()
        if self.origin is not None:
            said["origin"] = to_dict(self.origin)
        if self.decisions is not None:
            said["decisions"] = self.decisions.to_json()
        if self.mask_decisions is not None:
            said["mask_decisions"] = self.mask_decisions.to_json()
        return {"config": to_dict(self.config), **said}

    def __repr__(self) -> str:
        """Describes the network, its preprocessing and where it comes from, a line each."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        towers = {name: getattr(self.method.config, name, None) for name in ("image", "text")}
        described = [f"{name} {_tower(each)}" for name, each in towers.items() if each is not None]
        return (
            f"{type(self).__name__} of method {self.method.name}, {count:,} parameters\n"
            + (f"towers: {'; '.join(described)}\n" if described else "")
            + f"images: {describe(self.data_config.image)}"
            + (f"\nclasses: {', '.join(self.classes)}" if self.classes else "")
            + (f"\nstructures: {', '.join(self.structures)}" if self.structures else "")
            + (f"\nreports: of {self._words_said}" if self.method.vocabulary else "")
            + (f"\nweights: {self.origin}" if self.origin else "")
        )

    @property
    def _words_said(self) -> str:
        return f"{len(self.words)} words" if self.words else "words that are not given"

    @property
    def encoder(self) -> DualEncoder:
        """Method of the model, as one that embeds images and texts in one space.

        Raises:
          UserError: it does not.
        """
        return as_dual_encoder(self.method, "comparing images and texts")

    @property
    def data_config(self) -> DataConfig:
        """Configuration of the data and their preprocessing, `config.data`."""
        return self.config.data

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the network's texts.

        Raises:
          UserError: the network has no texts, or the tokenizer cannot be read or does not fit.
        """
        if self._tokenizer is None:
            self._tokenizer = fitting_tokenizer(self.data_config.text, self.encoder.text)
        return self._tokenizer

    @property
    def trains_on_patients(self) -> bool:
        """Tells whether the model has a patient level beside single images."""
        return get_kind(self.method.sample_kind).paired_eyes

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the network itself tells apart; () where it tells none."""
        return self.method.classes

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures whose pixels the network finds; () where it finds none."""
        return self.method.structures

    @property
    def words(self) -> tuple[str, ...]:
        """Words that the network's reports consist of, in the order of their ids from 1; () where
        it writes none, or its file came without."""
        return self.data_config.text.words if self.method.vocabulary else ()

    @property
    def logit_scale(self) -> float:
        """Learned factor on cosines before a softmax over texts; CLIP's first one without texts."""
        return float(self.method.scale(self.params))

    def features(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Embeddings and scales of a prepared batch by name, without dropout.

        Args:
          batch: arrays under the method's names, for RET-CLIP `image_left`, `image_right` and
            `tokens`: images (n, h, w, 3) float32, normalized; token ids (n, length) int32.

        Raises:
          UserError: an array is missing, unknown, or of the wrong shape, dtype or range.
        """
        return self._call("features", as_batch(self.method, batch))

    def losses(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Losses of a prepared batch by name, without dropout.

        Args:
          batch: as for `features`, with the targets of the losses.

        Raises:
          UserError: as for `features`.
        """
        return self._call("losses", as_batch(self.method, batch, losses=True))

    def encode_images(
        self,
        images: Image | Iterable[Image],
        *,
        progress: bool = False,
        unusable: list[tuple[int, str]] | None = None,
    ) -> Embedding:
        """Unit-norm float32 embeddings of photographs, comparable with `encode_texts`.

        Args:
          images: one or many, of any size: paths, encoded bytes, PIL images, or arrays (uint8, or
            float from 0 to 1; gray, RGB or RGBA).
          progress: whether a progress bar is shown.
          unusable: list that gets the index of every image that cannot be read or decoded, and the
            reason; its row is zeros. None raises at the first one.

        Returns:
          embeddings (n, d), in the order of the images.

        Raises:
          UserError: there is no image, or one cannot be read.

        Example:
          >>> model.encode_images(["left.jpg", "right.jpg"]).shape
          (2, 8)
        """
        return self._of_images("images", "embedding", images, progress, unusable, 0)

    def predict(
        self,
        images: Image | Iterable[Image],
        *,
        progress: bool = False,
        unusable: list[tuple[int, str]] | None = None,
    ) -> Table:
        """Calibrated probabilities of the network's own classes.

        Args:
          images: as for `encode_images`.
          progress: whether a progress bar is shown.
          unusable: list that gets the index of every image that cannot be read or decoded, and the
            reason; its row is NaN. None raises at the first one.

        Returns:
          (n, classes) float32, in the order of the images and of `classes`, whose names its rows
          and columns have: the softmax, of findings the sigmoid, of `class_logits` divided by the
          temperature of `decisions`.

        Raises:
          UserError: the network has no classes, there is no image, or one cannot be read.

        Example:
          >>> classifier.predict(["left.jpg", "right.jpg"])
                     normal  drusen
          left.jpg    0.516   0.484
          right.jpg   0.510   0.490
          >>> classifier.predict("left.jpg")["drusen"].shape
          (1,)
        """
        images = as_images(images)
        logits = self.class_logits(images, progress=progress, unusable=unusable)
        assert self.decisions is not None, "class_logits refuses networks without classes"
        return Table(self.decisions.probabilities(logits), _row_names(images), self.classes)

    def class_logits(
        self,
        images: Image | Iterable[Image],
        *,
        progress: bool = False,
        unusable: list[tuple[int, str]] | None = None,
    ) -> Float32[np.ndarray, "n classes"]:
        """Logits of the network's own classes, before any calibration.

        Args:
          images, progress, unusable: as for `predict`.

        Returns:
          (n, classes), in the order of the images and of `classes`.

        Raises:
          UserError: as for `predict`.
        """
        self.require_classes()
        return self._of_images("class logits", "predicting", images, progress, unusable, np.nan)

    def require_classes(self) -> None:
        """Refuses a network that tells no classes apart.

        Raises:
          UserError: the network has none; the message says how to get them.
        """
        if not self.classes:
            raise UserError(
                f"a {self.method.name} network has no classes of its own: fine-tune one on "
                "photographs with classes, or compare with texts by zero_shot where it has texts"
            )

    def pixel_logits(
        self, pixels: UInt8[np.ndarray, "n size size 3"]
    ) -> Float[jax.Array, "n classes"]:
        """Begins to compute logits of the network's own classes, for callers that prepare ahead.

        Args:
          pixels: photographs as `data.images.fit` makes them; n is a multiple of the local devices,
            over which they are sharded, and the same in every call, so that it compiles once.

        Returns:
          (n, classes) as `class_logits` has them; JAX may still be computing them.

        Raises:
          UserError: the network has no classes.
        """
        self.require_classes()
        return self._spread("class logits", {"image": pixels}, jax.local_devices())["image"]

    def segment(self, image: Image, name: str = "image") -> Float32[np.ndarray, "h w structures"]:
        """Probabilities of the structures at every pixel of a photograph.

        Args:
          image: one, of any size, as for `encode_images`.
          name: of an image that is no path, for messages.

        Returns:
          (h, w, structures) float32 at the photograph's own size, upright, in the order of
          `structures`; `mask_decisions.masks` decides from them. The network sees the photograph as
          in training, as a whole or in windows, and its logits are resized, not the probabilities.

        Raises:
          UserError: the network finds no structures, there is not one image, or it cannot be used.
        """
        self.require_structures()
        images = as_images(image)
        if len(images) != 1:
            raise UserError(f"segment takes one photograph, not {len(images)}: call it for each")
        pixels = self.decode(images[0], name)
        logits = photograph_logits(
            pixels,
            self.picture_logits,
            self.data_config,
            batch=_pictures_at_once(),
            background=self.method.exclusive_structures,
        )
        if not np.isfinite(logits).all():
            raise UserError(
                f"{name}: the network's logits of its pixels are not all finite numbers: the "
                "weights hold NaN or infinity, or the training diverged"
            )
        return self._pixel_probabilities(logits)

    def require_structures(self) -> None:
        """Refuses a network that finds no structures.

        Raises:
          UserError: the network finds none; the message says how to get them.
        """
        if not self.structures:
            raise UserError(
                f"a {self.method.name} network finds no structures in photographs: train a decoder "
                "on its image tower and photographs with masks (retfm train, config segment, with "
                "config.init.image naming the weights)"
            )

    def caption(
        self,
        images: Image | Iterable[Image | None],
        *,
        beams: int = 3,
        length: int | None = None,
        length_penalty: float = 0.0,
    ) -> str:
        """Writes the report of one case.

        Args:
          images: of the case, one or several, of any size, as for `encode_images`; None marks one
            that is missing, such as the left eye of a patient, which then moves no other. Of more
            than `data_config.case_images` those are seen that lie evenly from the first to the
            last, and one that cannot be read is passed over.
          beams: reports that are followed side by side; one is greedy.
          length: words of the report at most; None: as many as reports had in training.
          length_penalty: alpha; the sum of log-probabilities is divided by the number of words to
            the power of alpha, so that larger values make longer reports.

        Raises:
          UserError: the network writes no reports or has no words, an option is out of its range,
            or no image can be used.
        """
        return self.captions([images], beams=beams, length=length, length_penalty=length_penalty)[0]

    def captions(
        self,
        cases: Iterable[Image | Iterable[Image | None]],
        *,
        beams: int = 3,
        length: int | None = None,
        length_penalty: float = 0.0,
        progress: bool = False,
        unusable: list[tuple[int, str]] | None = None,
    ) -> list[str]:
        """Writes the reports of many cases, of which few are in memory at once.

        Args:
          cases: each as the images of `caption`.
          beams, length, length_penalty: as there.
          progress: whether a progress bar is shown.
          unusable: list that gets the index of every case without an image that can be used, and
            the reason; its report is "". None raises at the first one.

        Returns:
          the reports, in the order of the cases.

        Raises:
          UserError: as for `caption`.
        """
        if isinstance(cases, str | os.PathLike | bytes | PIL.Image.Image):
            cases = [cases]
        search = captioning.Search(beams, length, length_penalty)
        count = len(cases) if isinstance(cases, Sized) else None
        found = captioning.write_reports(
            self, cases, search, count=count, unusable=unusable, progress=progress
        )
        return ["" if each is None else each.text for each in found]

    def require_words(self) -> None:
        """Refuses a network that writes no reports, or whose words nobody has given.

        Raises:
          UserError: it is one; the message says how to get them.
        """
        if not self.method.vocabulary:
            raise UserError(
                f"a {self.method.name} network writes no reports: train one on its image tower and "
                "images with reports (retfm train, config caption, with config.init.image naming "
                "the weights)"
            )
        if len(self.words) + 1 != self.method.vocabulary:
            raise UserError(
                f"the network writes {self.method.vocabulary - 1} words, which its weights do not "
                f"hold, and {len(self.words) or 'none'} are given: import it with their list "
                "(retfm import, words)"
            )

    def best_reports(
        self,
        cases: dict[str, np.ndarray],
        search: captioning.Search,
        devices: Sequence[Device],
    ) -> dict[str, jax.Array]:
        """Begins to write the reports of prepared cases.

        Args:
          cases: `image`, (b, images, size, size, 3) uint8, and `has_image`, (b, images) bool, as
            `data.kinds.case.placed` makes them, and where losses are wanted `tokens`, (b, n) int32;
            b is a multiple of the devices.
          search: how reports are searched for, with a length.
          devices: over which the cases are sharded.

        Returns:
          `words`, ids (b, length) int32, and `scores`, (b,) float32, of the best report of each;
          with tokens `losses`, (b,) float32, the mean of -ln p over their words, and `loss_words`,
          (b,), their number.
        """
        name = f"reports by {search}"
        if name not in self._functions:
            self._functions[name] = jax.jit(functools.partial(self._best_reports, search))
        return self._spread(name, cases, devices)

    def _best_reports(
        self, search: captioning.Search, params: Params, state: MethodState, batch: Batch
    ) -> dict[str, jax.Array]:
        batch = prepare(batch, self.data_config.image)
        seen = batch["image"], batch["has_image"]
        found = self.method.decode(params, state, *seen, **search._asdict())
        best = {"words": found.words[:, 0], "scores": found.scores[:, 0]}
        if "tokens" not in batch:
            return best
        losses, words = self.method.report_losses(params, state, batch)
        return {**best, "losses": losses, "loss_words": words}

    def patch_means(
        self, pixels: UInt8[np.ndarray, "n size size 3"]
    ) -> Float32[np.ndarray, "n width"]:
        """Means of the features of the patches of photographs, as reports are written of them.

        Args:
          pixels: photographs as `data.images.fit` makes them. Some are computed at a time, for
            which it compiles once.

        Raises:
          UserError: the network writes no reports.
        """
        self.require_words()
        found = []
        for start in range(0, len(pixels), _CHUNK):
            part = pixels[start : start + _CHUNK]
            padded = np.zeros((_CHUNK, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            means = self._call("patch means", {"image": padded})["image"]
            found.append(np.asarray(means, np.float32)[: len(part)])
        return np.concatenate(found)

    def image_features(self, images: Image | Iterable[Image]) -> Embedding:
        """Features of photographs from the image tower, before any projection, not of unit norm.

        Args:
          images: as for `encode_images`.

        Returns:
          features (n, width of the tower).

        Raises:
          UserError: as for `encode_images`.
        """
        images = as_images(images)
        rows = enumerate(images)
        return self._chunked("features of images", self._image_row, rows, len(images))["image"]

    def encode_texts(self, texts: str | Iterable[str]) -> Embedding:
        """Unit-norm float32 embeddings of one or many reports or prompts.

        Args:
          texts: one or many; tokens beyond the context length are cut.

        Returns:
          embeddings (n, d), in the order of the texts.

        Raises:
          UserError: there is none, or one is missing, empty or no text.

        Example:
          >>> texts = model.encode_texts(["drusen of the left eye", "左眼玻璃膜疣"])
          >>> (model.encode_images("left.jpg") @ texts.T).shape
          (1, 2)
        """
        texts = as_texts(texts)
        return self._chunked("texts", _text_row, self._tokens(texts), len(texts))["text"]

    def encode_patients(
        self, left: Iterable[Image | None], right: Iterable[Image | None]
    ) -> dict[str, Embedding]:
        """Unit-norm float32 embeddings of patients and of their eyes.

        Args:
          left, right: images of left and right eyes, one for each patient, as for `encode_images`;
            None marks a missing eye.

        Returns:
          `image_patient`, `image_left` and `image_right`, each (n, d); the rows of patients without
          any eye are zeros.

        Raises:
          UserError: the network has no patient level, the lists are of different length, or an
            image cannot be read.
        """
        self._require_patients()
        left = as_images(left, what="left images", missing=True)
        right = as_images(right, what="right images", missing=True)
        if len(left) != len(right):
            raise UserError(
                f"{len(left)} left and {len(right)} right images: give one of each for a patient, "
                "None for a missing eye"
            )
        size = self.data_config.image.size
        nothing = np.zeros((size, size, 3), np.uint8)

        def eye(image: Image | None, name: str) -> np.ndarray:
            return nothing if image is None else self._pixels(image, name)

        def row(patient: tuple[int, tuple[Image | None, Image | None]]) -> dict[str, np.ndarray]:
            index, (first, second) = patient
            return {
                "image_left": eye(first, f"left image {index}"),
                "image_right": eye(second, f"right image {index}"),
                "has_left": np.asarray(first is not None),
                "has_right": np.asarray(second is not None),
            }

        patients = list(zip(left, right, strict=True))
        seen = np.array([first is not None or second is not None for first, second in patients])
        found = self._chunked("patients", row, enumerate(patients), len(left))
        return {name: np.where(seen[:, None], rows, np.float32(0)) for name, rows in found.items()}

    def encode_patient_texts(self, texts: str | Iterable[str]) -> dict[str, Embedding]:
        """Unit-norm float32 embeddings of reports or prompts for patients and for their eyes.

        Args:
          texts: one or many, as for `encode_texts`.

        Returns:
          `text_patient`, `text_left` and `text_right`, each (n, d).

        Raises:
          UserError: the network has no patient level, or as for `encode_texts`.
        """
        self._require_patients()
        texts = as_texts(texts)
        return self._chunked("reports", _text_row, self._tokens(texts), len(texts))

    def _require_patients(self) -> None:
        if not self.trains_on_patients:
            raise UserError(
                f"a {self.method.name} network has no patient level: encode_images and "
                "encode_texts are for single images"
            )

    def zero_shot(
        self,
        images: Image | Iterable[Image],
        classes: Iterable[str] | Mapping[str, str | Iterable[str] | None],
        language: str = "en",
        modality: str | None = None,
    ) -> Table:
        """Probabilities of classes that exclude each other.

        Args:
          images: see `encode_images`.
          classes: two or more condition ids or names of the vocabulary ("drusen"); or a mapping
            from names to prompts of your own, a text or several ({"normal": None, "my finding":
            "a photograph of my finding"}; None: the vocabulary's prompts).
          language: of the prompts of conditions, "en" or "zh".
          modality: "cfp", "ffa" or "oct": what the prompts call the images; None: what the network
            was made for (`config.data.image.modality`).

        Returns:
          probabilities (images, classes), whose rows sum to 1, with the names of images and
          classes: the softmax over classes of scale * cosine with the mean embedding of the class's
          prompts, as in the protocol `zero_shot`.

        Raises:
          UserError: a class is unknown (the message names similar ones) or given twice, there are
            fewer than two, the language or the modality is unknown, or an image cannot be read.

        Example:
          >>> found = model.zero_shot(["left.jpg", "right.jpg"], ["normal", "drusen", "glaucoma"])
          >>> found.rows, found.columns
          (('left.jpg', 'right.jpg'), ('normal', 'drusen', 'glaucoma'))
          >>> found.shape, found["drusen"].shape
          ((2, 3), (2,))
          >>> given = {"my finding": "a photograph of it", "normal": None}
          >>> model.zero_shot("left.jpg", given).columns
          ('my finding', 'normal')
        """
        given = as_classes(classes, language)
        images = as_images(images)
        theirs = zero_shot.model_prompts(self, modality=modality)

        def prompts(name: str, language: str, eye: str | None) -> Sequence[str | WeightedPrompt]:
            return given[name] or theirs(name, language, eye)

        embedded = self.encode_images(images)
        found = zero_shot.class_probabilities(self, embedded, tuple(given), language, prompts)
        return Table(found, _row_names(images), tuple(given))

    def heatmap(
        self,
        images: Image | Iterable[Image],
        target: Any,
        *,
        method: str | None = None,
        language: str = "en",
    ) -> list[Float32[np.ndarray, "... h w"]]:
        """Maps of what in photographs speaks for a finding or a text, as far as a map can tell.

        Args:
          images: as for `encode_images`.
          target: of a network with classes one of them, whose odds are explained; else a
            condition's id or name ("drusen"), explained against a normal eye as zero-shot
            scores findings; or any other text, whose cosine with the image is explained; or a
            vector (d,) of the space of `encode_images`, such as another photograph's embedding; or
            a list of them; None: the tower's attention itself, of no target ("rollout" of a vision
            transformer).
          method: "relevance" or "rollout" of vision transformers, "grad_cam" or "hires_cam" of the
            last stage of residual networks, "grad_cam_stage3" or "hires_cam_stage3" of the one
            before; None: the tower's default. See `models.relevance`.
          language: of the prompts of conditions, "en" or "zh".

        Returns:
          for each photograph, as they may differ in size, a map (h, w) float32 over its pixels, or
          maps (targets, h, w) where a list of targets was given. They are at least 0, and 1 where
          they are largest in the network's input; 0 everywhere where nothing there raises the
          score, and in the margin that a preprocessing with "crop" cuts off.

        Raises:
          UserError: the network has neither such a class nor texts, the method is unknown, or an
            image cannot be used.

        Example:
          >>> (heat,) = model.heatmap("left.jpg", "drusen")
          >>> heat.shape == model.decode("left.jpg", "").shape[:2]
          True
        """
        images = as_images(images)
        targets = heatmaps.read_targets(self, target, language)
        _, way = heatmaps.choose_way(self.method.config.image, method, target is not None)
        config = self.data_config.image
        found = [
            each.onto_photograph(config)
            for each in heatmaps.heat_maps(self, images, targets, way)
            if each is not None
        ]
        return [maps[0] for maps in found] if targets.single else found

    def decode(self, image: Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes an image of any form to RGB, upright, at its own size.

        Args:
          image: a path, encoded bytes, a PIL image or an array.
          name: of an image that is no path, for messages.

        Returns:
          (h, w, 3) uint8.

        Raises:
          UserError: it cannot be read or decoded.
        """
        if isinstance(image, str | os.PathLike):
            name = str(image)
            image = image_files.read(as_path(image))
        if isinstance(image, bytes | bytearray | memoryview):
            return decode(bytes(image), name)
        if isinstance(image, PIL.Image.Image):
            return pil_to_rgb(image, name)
        array = as_array(image)
        assert array is not None, "as_images lets nothing else pass"
        return array_to_rgb(array, name)

    def save(self, path: PathLike) -> None:
        """Writes a checkpoint folder that `retfm_jax.load` reads.

        Args:
          path: a new or empty folder, local or in a store.

        Raises:
          UserError: it cannot be written, or is not empty.

        Example:
          >>> model.save("copy")
          >>> retfm_jax.load("copy").config == model.config
          True
        """
        from retfm_jax.runtime.checkpoints import save_network

        path = as_path(_given(path))
        save_network(path, self.params, self.state.batch_stats, self.meta)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = True,
        revision: str | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> str:
        """Uploads the model with a model card to the Hugging Face Hub.

        Args:
          repo: "owner/name", which is made where it is missing.
          private: whether a repository that is made is private.
          revision: branch to write, which is made where it is missing; None for the default one.
          evaluation: document of an evaluation for the card, the JSON of `retfm evaluate`.

        Returns:
          the page of the repository, from which `retfm_jax.load` reads the model by its address.

        Raises:
          UserError: there is no token that may write there, the Hub cannot be reached, or the
            network cannot be written (see `interop.hub_folder`).
        """
        hub.check_upload(repo)  # before gigabytes are written
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary, "model")
            write_hub_folder(folder, self.stored, evaluation)
            return hub.upload(folder, repo, private=private, revision=revision)

    @property
    def stored(self) -> Stored:
        """What a folder for the Hub holds of the model; see `interop.hub_folder`."""
        return Stored(
            self.method,
            self.params,
            self.state,
            self.config,
            self.wording,
            self.notes,
            self.origin,
            self.decisions,
            self.mask_decisions,
        )

    def _of_images(
        self,
        what: str,
        doing: str,
        images: Image | Iterable[Image],
        progress: bool,
        unusable: list[tuple[int, str]] | None,
        nothing: float,
    ) -> Float32[np.ndarray, "n d"]:
        """What the network computes of each image; `nothing` in rows of those without pixels."""
        images = as_images(images)
        rows = progress_bar(images, desc=doing, unit="image", disable=not progress)
        damaged: list[tuple[int, str]] | None = None if unusable is None else []
        make = functools.partial(self._image_row, unusable=damaged)
        found = self._chunked(what, make, enumerate(rows), len(images))["image"]
        if unusable is not None and damaged:
            unusable += sorted(damaged)
            found[[position for position, _ in damaged]] = nothing
        return found

    def picture_logits(
        self, pictures: UInt8[np.ndarray, "b size size 3"]
    ) -> Float32[np.ndarray, "b size size k"]:
        """Logits of the pixels of pictures at the network's size, see `Method.pixel_logits`.

        Args:
          pictures: photographs as a whole or windows of them, RGB. One is computed alone, several
            in equal parts over all local devices, so that it compiles for two numbers.

        Raises:
          UserError: the network finds no structures.
        """
        self.require_structures()
        size, devices = 1, jax.local_devices()[:1]
        if len(pictures) > 1:
            size, devices = _pictures_at_once(), jax.local_devices()
        found = []
        for start in range(0, len(pictures), size):
            part = pictures[start : start + size]
            padded = np.zeros((size, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            logits = self._spread("pixel logits", {"image": padded}, devices)["image"]
            found.append(np.asarray(logits, np.float32)[: len(part)])
        return np.concatenate(found)

    def _pixel_probabilities(
        self, logits: Float32[np.ndarray, "h w k"]
    ) -> Float32[np.ndarray, "h w structures"]:
        """Probabilities of pixels, some at a time, which compiles once for all sizes."""
        pixels = logits.reshape(-1, logits.shape[-1])
        found = np.empty((len(pixels), len(self.structures)), np.float32)
        for start in range(0, len(pixels), _PIXELS):
            part = pixels[start : start + _PIXELS]
            block = np.zeros((_PIXELS, part.shape[1]), np.float32)
            block[: len(part)] = part
            probabilities = self._functions["probabilities"](block)
            found[start : start + _PIXELS] = np.asarray(probabilities)[: len(part)]
        return found.reshape(*logits.shape[:2], -1)

    def _image_row(
        self, image: tuple[int, Image], unusable: list[tuple[int, str]] | None = None
    ) -> dict[str, np.ndarray]:
        position, pixels = image
        try:
            return {"image": self._pixels(pixels, f"image {position}")}
        except (ImageError, Unusable) as error:
            if unusable is None:
                raise
            unusable.append((position, str(error)))
            size = self.data_config.image.size
            return {"image": np.zeros((size, size, 3), np.uint8)}

    def _pixels(self, image: Image, name: str) -> np.ndarray:
        return fit(self.decode(image, name), self.data_config.image)

    def _tokens(self, texts: Sequence[str]) -> np.ndarray:
        return self.tokenizer(texts)

    def _chunked(
        self,
        what: str,
        row: Callable[[Any], dict[str, np.ndarray]],
        items: Iterable[Any],
        count: int,
    ) -> dict[str, Embedding]:
        """Runs the network over what `row` makes of the items, in chunks of one size."""
        devices = jax.local_devices()
        devices = devices if count >= _CHUNK * len(devices) else devices[:1]
        size = _FEW if count <= _FEW else _CHUNK * len(devices)
        parts: dict[str, list[np.ndarray]] = {}
        # Threads make rows while the network works on those before.
        with in_threads(row, items, threads=cores(), ahead=2 * size) as rows:
            for start in range(0, count, size):
                chunk = [next(rows) for _ in range(min(size, count - start))]
                padded = chunk + chunk[-1:] * (size - len(chunk))
                batch = {name: np.stack([each[name] for each in padded]) for name in chunk[0]}
                for name, value in self._spread(what, batch, devices).items():
                    parts.setdefault(name, []).append(np.asarray(value)[: len(chunk)])
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _call(self, what: str, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        return self._functions[what](self.params, self.state, batch)

    def _spread(
        self, what: str, batch: dict[str, np.ndarray], devices: Sequence[Device]
    ) -> dict[str, jax.Array]:
        """`_call` with the samples sharded over devices."""
        if len(devices) == 1:
            return self._call(what, batch)
        network = self.params, self.state
        if self._copies is None or self._copies[0] is not self.params:
            mesh = make_mesh(MeshConfig(), devices)
            self._copies = self.params, jax.device_put(network, replicated(mesh)), mesh
        _, copies, mesh = self._copies
        with traced_on(mesh):
            return self._functions[what](*copies, jax.device_put(batch, batch_sharding(mesh)))

    @functools.cached_property
    def _functions(self) -> dict[str, Callable]:
        method, image = self.method, self.data_config.image
        prepared = functools.partial(prepare, image_config=image, augment_config=None, key=None)
        functions = {
            "features": method.features,
            "losses": method.losses,
            "images": lambda p, s, b: {"image": method.encode_images(p, s, prepared(b)["image"])},
            "features of images": lambda p, s, b: {
                "image": method.image_features(p, s, prepared(b)["image"])
            },
            "class logits": lambda p, s, b: {
                "image": method.class_logits(p, s, prepared(b)["image"])
            },
            "pixel logits": lambda p, s, b: {
                "image": method.pixel_logits(p, s, prepared(b)["image"])
            },
            "probabilities": method.probabilities,
            "patch means": lambda p, s, b: {"image": self._patch_means(p, s, prepared(b))},
            "texts": lambda p, s, b: {"text": self.encoder.encode_texts(p, s, b["tokens"])},
            "patients": lambda p, s, b: self.encoder.encode_patients(p, s, prepared(b)),
            "reports": lambda p, s, b: self.encoder.encode_reports(p, s, b["tokens"]),
        }
        return {name: jax.jit(function) for name, function in functions.items()}

    def _patch_means(self, params: Params, state: MethodState, batch: Batch) -> jax.Array:
        cases = {"image": batch["image"][:, None]}
        return self.method.features(params, state, cases)["patch_features"].mean(1)


def _tower(config: Any) -> str:
    """Form and sizes of a tower, as far as it has them."""
    said = {
        "{} px": "image_size", "patches of {} px": "patch_size", "width {}": "width",
        "{} layers": "layers", "stages {}": "stages", "{} tokens": "positions",
    }  # fmt: skip
    found = {form: getattr(config, entry, None) for form, entry in said.items()}
    sizes = [form.format(size) for form, size in found.items() if isinstance(size, int | tuple)]
    return " ".join([getattr(config, "kind", "bert"), ", ".join(sizes)])


def _row_names(images: Sequence[Any]) -> list[str]:
    """Names of images in tables: their paths, or their numbers."""
    return [
        os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {index}"
        for index, image in enumerate(images)
    ]


def _pictures_at_once() -> int:
    """Pictures whose pixels are computed at once, as many on each local device."""
    devices = len(jax.local_devices())
    return devices * -(-_FEW // devices)


def _fitting_decisions(method: Method, decisions: Decisions | None) -> Decisions | None:
    """The decisions of a network, checked against its classes."""
    if not method.classes or method.outcome is None:
        if decisions is not None:
            raise UserError(
                f"decisions of classes ({first_of(decisions.classes, 5)}) belong to no "
                f"{method.name} network without classes"
            )
        return None
    if decisions is None:
        return default_decisions(method.classes, method.outcome)
    if (decisions.classes, decisions.outcome) != (method.classes, method.outcome):
        raise UserError(
            f"the decisions are of {decisions.outcome}, {first_of(decisions.classes, 5)}; the "
            f"network's classes are of {method.outcome}, {first_of(method.classes, 5)}"
        )
    return decisions


def _fitting_mask_decisions(
    method: Method, decisions: MaskDecisions | None
) -> MaskDecisions | None:
    """The decisions of a network, checked against its structures."""
    if decisions is None:
        return default_mask_decisions(method.structures) if method.structures else None
    if decisions.structures != method.structures:
        found = first_of(method.structures, 5)
        raise UserError(
            f"the decisions are of the structures {first_of(decisions.structures, 5)}; the "
            f"network finds {found or 'none'}"
        )
    return decisions


def _text_row(tokens: Int32[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    return {"tokens": tokens}


def load(
    path: PathLike,
    method: str | None = None,
    *,
    zoo: str | None = None,
    pooling: str | None = None,
    tokenizer: str | None = None,
) -> RetinalModel:
    """Reads a model from a workdir, a checkpoint folder, or published weights.

    Args:
      path: a workdir or checkpoint; a weight file (`.pt`, `.pth`, `.bin`, `.ckpt`, `.safetensors`,
        or a Hugging Face folder); `hf:owner/name[@revision][:file]` of the Hugging Face Hub; or a
        name that `retfm models` lists. An existing path wins over a name.
      method: name of the method; checked for checkpoints. None: of a weight file, what its tensors'
        names tell; an image tower of any known system is read as a "vision" network.
      zoo, pooling, tokenizer: see `load_weights`; of weights of others alone.

    Raises:
      UserError: nothing is there, it is damaged, or its tensors do not fit the method.

    Example:
      >>> model = retfm_jax.load("run")
      >>> print(model)  # doctest: +ELLIPSIS
      RetinalModel of method ..., ... parameters
      towers: image vit 32 px, patches of 16 px, width 16, 1 layers; text ...
      images: RGB, squashed to 32 x 32 px (bicubic), ...
    """
    from retfm_jax.interop.weights import holds_weights
    from retfm_jax.runtime.checkpoints import FOLDER

    source = find_weights(_given(path), zoo)
    path = source.path
    try:
        path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    run = (path / FOLDER).is_dir() or (path / "network").is_dir()
    if path.is_dir() and (run or not holds_weights(path)):
        model, _ = load_checkpoint(path)
        if method not in (None, model.config.method):
            raise UserError(f"{path} holds a {model.config.method} network, not a {method} one")
        if given := [each for each in (zoo, pooling, tokenizer) if each is not None]:
            raise UserError(
                f"{path} is a network with a configuration of its own: {given[0]} belongs to "
                "weights of others, when they are imported"
            )
        return model
    if not path.exists():
        raise UserError(
            f"{path} does not exist; give a workdir, a checkpoint, a weight file, hf:owner/name, "
            "or a name that `retfm models` lists"
        )
    return _read_weights(source, method, None, pooling, tokenizer)


def load_checkpoint(path: PathLike) -> tuple[RetinalModel, dict[str, Any]]:
    """Reads a model from a workdir or a checkpoint folder.

    Args:
      path: a workdir, whose newest checkpoint is read, its `checkpoints` folder, or a checkpoint.

    Returns:
      the model, and the checkpoint's item `meta`, as JSON values.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    from retfm_jax.runtime.checkpoints import load_network, workdir_of

    params, stats, meta = load_network(path)
    config = from_dict(located(meta["config"], workdir_of(path)))
    built = make_method(config.method, config.model)
    said = meta.get("wording")
    wording = None if said is None else ReportWording.from_json(said, str(path))
    notes = meta.get("notes", ())
    origin = None
    if "origin" in meta:
        origin = Origin.from_json(meta["origin"], str(path))
    elif "imported_from" in meta:  # by version 0.1
        origin = Origin(meta["imported_from"])
    state = MethodState(stats, {})
    decided, said = _stored_decisions(meta, path, bool(built.structures))
    model = RetinalModel(built, params, state, config, wording, (*notes, *said), origin, **decided)
    return model, meta


def _stored_decisions(
    meta: Mapping[str, Any], path: PathLike, of_masks: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Decisions of a checkpoint, and what is to be said of them: those beside it, else its own."""
    from retfm_jax.runtime.checkpoints import workdir_of

    workdir = workdir_of(path)
    kind = MaskDecisions if of_masks else Decisions
    entry, beside = "mask_decisions" if of_masks else "decisions", read_decisions(workdir, kind)
    if beside is not None and beside.fitted_on.get(WEIGHTS) in (None, meta["checksums"][0]):
        return {entry: beside}, ()
    own = meta.get(entry)
    found = {} if own is None else {entry: kind.from_json(own, str(path))}
    if beside is None:
        return found, ()
    where = workdir / DECISIONS
    return found, (f"{where} was fitted for another checkpoint than this one, and is not used",)


def load_weights(
    path: PathLike,
    method: str | None = None,
    text_num_heads: int | None = None,
    *,
    zoo: str | None = None,
    pooling: str | None = None,
    tokenizer: str | None = None,
    words: PathLike | None = None,
) -> RetinalModel:
    """Reads a model from weights, with the preprocessing that belongs to them.

    Args:
      path: as for `load`, but no workdir. The configuration of a Hugging Face folder tells heads,
        tokenizer and normalization.
      method, text_num_heads, pooling: see `from_torch`.
      zoo: name of the published model whose preprocessing, pooling and license belong to a file
        that was downloaded by hand; None: the one that `path` names.
      tokenizer: of the text tower, as `config.data.text.tokenizer`; None: the one that belongs to
        the weights, as far as that is known.
      words: file of the words of a network that writes reports, see `word_files.read_words`; None:
        the one beside the weights, "captioner.words.json" of captioner.pth, where there is one.

    Raises:
      UserError: as for `load`.
    """
    source = find_weights(_given(path), zoo)
    return _read_weights(source, method, text_num_heads, pooling, tokenizer, words)


def _read_weights(
    source: Source,
    method: str | None,
    text_num_heads: int | None,
    pooling: str | None,
    tokenizer: str | None,
    words: PathLike | None = None,
) -> RetinalModel:
    from retfm_jax.interop.huggingface import data_beside, heads_beside, tower_beside
    from retfm_jax.interop.layouts import method_of, plain_names
    from retfm_jax.interop.weights import read_tensors

    path, published = source.path, source.model
    if method is not None:
        get_method_class(method)  # before gigabytes are read
    stored = read_hub_folder(path, method)
    if stored is not None:
        given = (published and published.name, pooling, text_num_heads, tokenizer, words)
        if any(given):
            raise UserError(
                f"{path} is a network with a configuration of its own: "
                f"{next(filter(None, given))} belongs to weights of others"
            )
        if is_place(source.place):  # the commit, whatever its owner began with
            data = (stored.config.data.dataset,)
            origin = stored.origin or Origin(source.place, trained_on=data)
            stored = stored._replace(origin=dataclasses.replace(origin, source=source.place))
        return RetinalModel(*stored)
    tensors = read_tensors(path)
    method = method or method_of(plain_names(tensors, str(path)).values())
    towers = get_method_class(method).takes_towers
    heads = text_num_heads or (None if towers else heads_beside(path, "text_config"))
    if published is not None and towers:
        pooling = pooling or published.pooling
    stated = tower_beside(path) if towers else None
    model = from_torch(tensors, method, heads, pooling=pooling, stated=stated, where=str(path))
    text = model.method.text
    data = data_beside(path, model.data_config, None if text is None else text.positions)
    if published is not None:
        model.notes = (*model.notes, *published.notes)
        image = dataclasses.replace(published.image, size=data.image.size)
        if model.method.image_size is None:
            image = published.image
        elif image.size != published.image.size:
            size = published.image.size
            model.notes += (f"its images have {image.size} px, those of {published.title} {size}",)
        data = dataclasses.replace(data, image=image)
    if text is not None:
        tokenizer = tokenizer or (published and published.tokenizer)
        if tokenizer is not None:
            tokenizer, missing = _pinned(tokenizer)
            model.notes += missing
            length = published and published.context_length
            length = min(length or data.text.context_length, text.positions)
            own = dataclasses.replace(data.text, tokenizer=tokenizer, context_length=length)
            data = dataclasses.replace(data, text=own)
    elif tokenizer is not None:
        raise UserError(f"a {method} network takes no texts, and no tokenizer ({tokenizer})")
    data, missing = _with_words(data, model.method, path, words)
    model.notes += missing
    model.config = dataclasses.replace(model.config, data=data)
    model.origin = source.origin
    return model


def _with_words(
    data: DataConfig, method: Method, path: Path, words: PathLike | None
) -> tuple[DataConfig, tuple[str, ...]]:
    """The data with the words of a network that writes reports, and what is to be said of them."""
    from retfm_jax.interop.word_files import read_words, words_beside

    if not method.vocabulary:
        if words is not None:
            raise UserError(f"a {method.name} network writes no reports, and no words ({words})")
        return data, ()
    beside = words_beside(path)
    if words is None and not beside.is_file():
        return data, (f"the file has no words, and there is no {beside.name} beside it",)
    text = read_words(beside if words is None else words, data.text, method.vocabulary)
    return dataclasses.replace(data, text=text), ()


def _pinned(tokenizer: str) -> tuple[str, tuple[str, ...]]:
    """A tokenizer with the commit that its address now has, and what is to be said of it."""
    if not hub.is_address(tokenizer):
        return tokenizer, ()
    try:
        return hub.tokenizer_folder(tokenizer)[1], ()
    except UserError as error:
        return tokenizer, (f"texts need a vocabulary that is not here yet: {error}",)


def _given(path: Any) -> PathLike:
    if not isinstance(path, str | os.PathLike) or not str(path).strip():
        raise UserError(f"give a path, of a workdir, a checkpoint or a weight file, not {path!r}")
    return path


def from_torch(
    state_dict: Mapping[str, Any],
    method: str | None = None,
    text_num_heads: int | None = None,
    *,
    pooling: str | None = None,
    stated: Mapping[str, Any] | None = None,
    where: str = "state dict",
) -> RetinalModel:
    """Builds a model from a published PyTorch state dict; all sizes come from its tensors.

    Args:
      state_dict: tensors (torch or NumPy) by published name, with or without `module.`.
      method: name of the method; None: what the tensors' names tell, see `load`.
      text_num_heads: attention heads of the text tower; None: one for every 64 of its width.
      pooling: of the features of an image tower alone: "class", "mean" or "mean_norm", see
        `models.vit.ViTConfig`; None: what the tensors tell, or a guess that the notes name.
      stated: what no tensor tells of an image tower alone that is a vision transformer, as entries
        of `models.vit.ViTConfig`, such as {"activation": "gelu"}.
      where: how errors call it.

    Raises:
      UserError: tensors are missing, extra or misshaped, and all of them are named; or an argument
        is of the wrong type.
    """
    from retfm_jax.interop.layouts import method_of, recognized, state_dict_of
    from retfm_jax.interop.state_dict import from_state_dict, normalize, plain_tensors

    if method is not None:
        get_method_class(method)
    if text_num_heads is not None and (
        not isinstance(text_num_heads, int)
        or isinstance(text_num_heads, bool)
        or text_num_heads < 1
    ):
        raise UserError(f"text_num_heads must be a whole number of heads, not {text_num_heads!r}")
    if isinstance(state_dict, str | os.PathLike):
        raise UserError(f"{state_dict} is a path: read it by retfm_jax.load(path, method=...)")
    if callable(getattr(state_dict, "state_dict", None)):
        raise UserError(f"{type(state_dict).__name__} is a module: give its .state_dict()")
    named = state_dict_of(state_dict, where, lambda x: hasattr(x, "shape") and hasattr(x, "dtype"))
    tensors = plain_tensors(named, where=where)
    method = method_of(tensors) if method is None else method
    cls = get_method_class(method)
    tensors = tensors if cls.takes_towers else normalize(tensors, where=where)
    chosen: dict[str, Any] = {} if pooling is None else {"pooling": pooling}
    if stated:
        chosen["stated"] = stated
    if chosen and not cls.takes_towers:
        raise UserError(
            f"a {method} network has a {next(iter(stated or chosen))} of its own: that is a choice "
            "for image towers alone"
        )
    try:
        selected = cls.select(tensors, text_num_heads, **chosen)
        built = cls(selected.config)
    except NotImplementedError as error:
        raise UserError(
            f"{where}: {error}, so that nothing tells its sizes; load a workdir instead"
        ) from error
    except (ValueError, ArithmeticError, TypeError) as error:
        hint = recognized(tensors, method) or (
            " Give text_num_heads if it is the text tower."
            if "heads" in str(error)
            else " Its tensors are not those of such a network."
        )
        raise UserError(f"{where} does not fit a {method} network: {error}.{hint}") from error
    params, state = from_state_dict(built, selected.tensors, where=where)
    published = load_config(cls.default_experiment)
    image = dataclasses.replace(published.data.image, **selected.image)
    if built.image_size is not None:
        image = dataclasses.replace(image, size=built.image_size)
    text = published.data.text
    if built.text is not None:
        length = min(text.context_length, built.text.positions)
        text = dataclasses.replace(text, context_length=length)
    data = dataclasses.replace(published.data, image=image, text=text)
    config = dataclasses.replace(published, model=built.config, data=data)
    return RetinalModel(built, params, state, config, notes=selected.notes, origin=Origin(where))


def to_torch(model: RetinalModel) -> dict[str, np.ndarray]:
    """Tensors of a model under their published names and in PyTorch's layout.

    Args:
      model: the model to export, which stays as it is.

    Raises:
      UserError: `model` is no model.

    Example:
      >>> tensors = retfm_jax.to_torch(model)
      >>> again = retfm_jax.from_torch(tensors, "retclip", text_num_heads=2)
      >>> all((tensors[name] == each).all() for name, each in retfm_jax.to_torch(again).items())
      True
    """
    if not isinstance(model, RetinalModel):
        raise UserError(f"give a model (retfm_jax.load(...)), not {type(model).__name__}")
    from retfm_jax.interop.state_dict import to_state_dict

    return to_state_dict(model.method, model.params, model.state)
