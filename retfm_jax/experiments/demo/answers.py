"""From photographs of an eye or two to what a network says of them: no page, no server."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from scipy.special import softmax

from retfm_jax.data.laterality_guess import guess_side
from retfm_jax.data.quality import quality
from retfm_jax.errors import UserError
from retfm_jax.evaluation.embeddings import embed_pairs
from retfm_jax.experiments.demo import words
from retfm_jax.experiments.demo.cases import Case, Cases, Report
from retfm_jax.experiments.demo.guard import Limits, Refused
from retfm_jax.experiments.demo.words import Words, class_name
from retfm_jax.heatmaps import choose_way, heat_maps, read_targets
from retfm_jax.knowledge.laterality import SIDES, Side
from retfm_jax.knowledge.vocabulary import LANGUAGES, load_vocabulary
from retfm_jax.model import RetinalModel
from retfm_jax.rendering.overlays import overlay
from retfm_jax.zero_shot import Embedding, class_embeddings, model_prompts

Photograph = UInt8[np.ndarray, "h w 3"]

#: The order on the page, as clinicians have it.
ORDER: tuple[Side, Side] = ("right", "left")
#: Longer side of a photograph on the page, pixels.
_SIDE = 512
#: Conditions that are compared where nobody has chosen.
_DEFAULT = (
    "normal", "diabetic_retinopathy", "glaucoma", "amd", "pathologic_myopia",
    "hypertensive_retinopathy", "retinal_vein_occlusion", "cataract",
)  # fmt: skip
_LEAST_CLASSES = 2


class Column(NamedTuple):
    """Probabilities of all classes.

    Attributes:
      view: what of the patient they are of: an eye or both.
      prompts: whose prompts were compared; None of a class head.
      probabilities: one of each class.
    """

    view: Words
    prompts: Words | None
    probabilities: tuple[float, ...]


class Said(NamedTuple):
    """What is said of an eye by the decisions that belong to a class head.

    Attributes:
      view: the eye.
      predicted: classes that it is said to have; none of findings that may all be absent.
      coverage: of the prediction set; None without one.
      possible: classes of the prediction set.
    """

    view: Words
    predicted: tuple[Words, ...]
    coverage: float | None
    possible: tuple[Words, ...]


class Seen(NamedTuple):
    """A photograph and the map over it.

    Attributes:
      view: the eye.
      photograph, overlay: RGB (h, w, 3) uint8, of one size.
    """

    view: Words
    photograph: Photograph
    overlay: Photograph


class Beside(NamedTuple):
    """What the data set has beside an eye or a patient.

    Attributes:
      view: the eye, or both eyes.
      cases: the nearest ones.
      reports: the nearest ones by language; without any where there are none.
    """

    view: Words
    cases: tuple[Case, ...]
    reports: Mapping[str, tuple[Report, ...]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the page shows.

    Attributes:
      outcome: what the classes are to each other, as `decisions.Outcome`.
      classes: their names.
      columns: their probabilities.
      said: decisions, of a class head.
      target: what the maps are of.
      seen: photographs with maps.
      beside: cases and reports.
      notes: what is to be doubted of the photographs.
    """

    outcome: Literal["exclusive", "findings", "grades"]
    classes: tuple[Words, ...]
    columns: tuple[Column, ...]
    said: tuple[Said, ...]
    target: Words
    seen: tuple[Seen, ...]
    beside: tuple[Beside, ...]
    notes: tuple[Words, ...]


class Reader:
    """A network that is asked about photographs; not for several threads at a time.

    Args:
      model: with a class head, or with texts.
      limits: how much is compared and shown.
      cases: that photographs are compared with; None for none.

    Attributes:
      model, limits, cases: as given.
      offered: names of the classes that can be asked for.
      chosen: those that are asked for where nobody has chosen.
      has_head: whether the classes are the network's own, all of them, always.

    Raises:
      UserError: the network knows neither classes nor texts.
    """

    def __init__(self, model: RetinalModel, limits: Limits, cases: Cases | None = None):
        self.model, self.limits, self.cases = model, limits, cases
        self.has_head = model.decisions is not None
        if not self.has_head and model.method.text is None:
            raise UserError(
                f"a {model.method.name} network knows neither classes nor texts that a photograph "
                "could be compared with: fine-tune it on classes first"
            )
        if model.decisions is not None:
            self.offered = self.chosen = model.decisions.classes
        else:
            self.offered = load_vocabulary().ids
            self.chosen = self._default()
        self._texts: dict[tuple[str, str], dict[str, Embedding]] = {}

    def _default(self) -> tuple[str, ...]:
        """The classes of the cases, as far as the vocabulary has them; else common ones."""
        vocabulary = load_vocabulary()
        labels = () if self.cases is None else self.cases.label_names
        known = dict.fromkeys(found.id for name in labels if (found := vocabulary.find(name)))
        found = tuple(known)[: self.limits.classes]
        return found if len(found) >= _LEAST_CLASSES else _DEFAULT

    def answer(
        self,
        eyes: Mapping[Side, Photograph],
        classes: Sequence[str] = (),
        target: str | None = None,
    ) -> Answer:
        """Says everything of one patient's eyes.

        Args:
          eyes: photographs by side, one or two, as `guard.photograph` gives them.
          classes: of `offered`, that are compared; () for `chosen`. A class head has all its own.
          target: of them, what the heat maps are of; None for the likeliest.

        Raises:
          Refused: there is no photograph, a class is unknown, there are too few or too many of
            them, or the network gives no finite numbers.
        """
        if not eyes:
            raise Refused(words.NO_PHOTOGRAPH)
        names = self._asked(classes)
        if target is not None and target not in names:
            raise Refused(words.UNKNOWN_CLASS)
        try:
            return self._answer({side: eyes[side] for side in ORDER if side in eyes}, names, target)
        except Refused:
            raise
        except UserError as error:  # of the network, for all that is asked was looked at
            raise Refused(words.UNUSABLE) from error

    def _answer(
        self, eyes: Mapping[Side, Photograph], names: Sequence[str], target: str | None
    ) -> Answer:
        patient = self._embedded(eyes)
        columns = self._by_head(eyes) if self.has_head else self._by_texts(patient, names)
        probabilities = np.array([column.probabilities for column in columns])
        if not np.isfinite(probabilities).all():
            raise Refused(words.UNUSABLE)
        target = target or names[int(probabilities.mean(0).argmax())]
        decisions = self.model.decisions
        return Answer(
            outcome="exclusive" if decisions is None else decisions.outcome,
            classes=tuple(class_name(name) for name in names),
            columns=columns,
            said=self._said(columns),
            target=class_name(target),
            seen=self._seen(eyes, target),
            beside=self._beside(eyes, patient),
            notes=tuple(note for side, eye in eyes.items() for note in self._notes(side, eye)),
        )

    def _asked(self, classes: Sequence[str]) -> tuple[str, ...]:
        if self.has_head or not classes:
            return self.chosen
        names = tuple(dict.fromkeys(classes))
        if not set(names) <= set(self.offered):
            raise Refused(words.UNKNOWN_CLASS)
        if not _LEAST_CLASSES <= len(names) <= self.limits.classes:
            raise Refused(
                words.CLASSES_WANTED.filled(least=_LEAST_CLASSES, most=self.limits.classes)
            )
        return names

    def _embedded(self, eyes: Mapping[Side, Photograph]) -> dict[str, Embedding]:
        """Embeddings (1, d) of the patient and of the eyes; none where nothing compares them."""
        if self.has_head and (self.cases is None or not self.cases.of_patients):
            return {}
        pairs: dict[Side, list[Photograph | None]] = {side: [eyes.get(side)] for side in SIDES}
        found = embed_pairs(self.model, pairs)
        return {view: found[view] for view in self._views(eyes)}

    @staticmethod
    def _views(eyes: Mapping[Side, Photograph]) -> tuple[str, ...]:
        """Eyes, and the patient behind them where there are two."""
        return ("patient", *ORDER) if len(eyes) == len(SIDES) else tuple(eyes)

    def _by_texts(
        self, patient: Mapping[str, Embedding], names: Sequence[str]
    ) -> tuple[Column, ...]:
        columns = []
        for view, rows in patient.items():
            for language in LANGUAGES:
                classes = np.stack([self._text(name, language)[view][0] for name in names])
                found = softmax(self.model.logit_scale * rows[0] @ classes.T)
                prompts = words.LANGUAGE_OF_PROMPTS[language]
                columns.append(Column(_view(view), prompts, tuple(found.tolist())))
        return tuple(columns)

    def _text(self, name: str, language: str) -> dict[str, Embedding]:
        """Embedding (1, d) of a class in the words of its prompts, by view; computed once."""
        found = self._texts.get((name, language))
        if found is None:
            views = ("patient", *SIDES)
            prompts = model_prompts(self.model)
            found = class_embeddings(self.model, [name], language, prompts, views)
            self._texts[name, language] = found
        return found

    def _by_head(self, eyes: Mapping[Side, Photograph]) -> tuple[Column, ...]:
        rows = self.model.predict(list(eyes.values()))
        return tuple(
            Column(words.EYES[side], None, tuple(row.tolist()))
            for side, row in zip(eyes, rows, strict=True)
        )

    def _said(self, columns: Sequence[Column]) -> tuple[Said, ...]:
        decisions = self.model.decisions
        if decisions is None:
            return ()
        rows = np.array([column.probabilities for column in columns], np.float32)
        sets, conformal = decisions.sets(rows), decisions.conformal
        predicted = decisions.predicted(rows)
        if decisions.outcome != "findings":
            predicted = np.eye(len(decisions.classes), dtype=bool)[predicted]

        def named(row: np.ndarray) -> tuple[Words, ...]:
            return tuple(class_name(decisions.classes[index]) for index in np.flatnonzero(row))

        return tuple(
            Said(
                column.view,
                named(predicted[index]),
                None if conformal is None else conformal.coverage,
                () if sets is None else named(sets[index]),
            )
            for index, column in enumerate(columns)
        )

    def _seen(self, eyes: Mapping[Side, Photograph], target: str) -> tuple[Seen, ...]:
        model = self.model
        targets = read_targets(model, target)
        _, way = choose_way(model.method.config.image, None, True)
        seen = []
        maps = heat_maps(model, list(eyes.values()), targets, way)
        for (side, photograph), heat in zip(eyes.items(), maps, strict=True):
            assert heat is not None, "without a list of unusable images they raise"
            small = _small(photograph)
            shown = small.shape[0], small.shape[1]
            laid: Float32[np.ndarray, "k h w"]
            laid = heat.onto_photograph(model.data_config.image, shown)
            seen.append(Seen(words.EYES[side], small, overlay(small, laid[0])))
        return tuple(seen)

    def _notes(self, side: Side, photograph: Photograph) -> list[Words]:
        """What is to be doubted of a photograph, by rules that nobody has validated."""
        if self.model.data_config.image.modality != "cfp":
            return []  # the rules are of color fundus photographs
        found, eye = quality(photograph), words.EYES[side]
        if not found.is_fundus:
            return [words.NO_FUNDUS.filled(eye=eye)]
        notes = []
        if found.is_low:
            measures = {
                name: getattr(found, name) for name in ("sharpness", "illumination", "field")
            }
            notes.append(words.LOW_QUALITY.filled(eye=eye, **measures))
        if guess_side(photograph).side not in (side, None):
            notes.append(words.OTHER_EYE.filled(eye=eye))
        return notes

    def _beside(
        self, eyes: Mapping[Side, Photograph], patient: Mapping[str, Embedding]
    ) -> tuple[Beside, ...]:
        if self.cases is None:
            return ()
        if self.cases.of_patients:
            view = next(iter(patient))  # both eyes, or the one that there is
            return (self._nearest(_view(view), patient[view][0]),)
        rows = self.model.encode_images(list(eyes.values()))
        return tuple(
            self._nearest(words.EYES[side], row) for side, row in zip(eyes, rows, strict=True)
        )

    def _nearest(self, view: Words, query: Float[np.ndarray, " d"]) -> Beside:
        assert self.cases is not None
        count = self.limits.shown
        return Beside(view, self.cases.nearest(query, count), self.cases.reports(query, count))


def _view(name: str) -> Words:
    return {"patient": words.BOTH_EYES, **words.EYES}[name]


def _small(photograph: Photograph) -> Photograph:
    made = Image.fromarray(photograph)
    made.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(made)
