"""Results of an evaluation: protocols add to them, reports show them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from retfm_jax.data.sources import RecordSource
from retfm_jax.evaluation.embeddings import EmbeddedSplit
from retfm_jax.evaluation.metrics.bootstrap import Estimate
from retfm_jax.evaluation.metrics.captions import CaptionMetrics
from retfm_jax.evaluation.metrics.clinical import ClinicalMetrics, Marked
from retfm_jax.evaluation.metrics.grades import Order
from retfm_jax.evaluation.metrics.predictions import Measured
from retfm_jax.evaluation.metrics.retrieval import Retrieval
from retfm_jax.evaluation.metrics.segmentation import SegmentationMetrics
from retfm_jax.heatmaps import Targets

if TYPE_CHECKING:
    from retfm_jax.evaluation.report.summary import Mistake

LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}


class Shown(NamedTuple):
    """A table of a section.

    Attributes:
      heading: above it.
      header: titles of the columns.
      rows: texts, numbers and estimates.
      note: below it; empty for none.
    """

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """One protocol in one setting.

    Attributes:
      title: the protocol and its setting, in words.
      measured: predictions and metrics (of the first fold, where there are several).
      records: where the samples of the predictions are.
      folds: mean, spread and values of every overall metric over the folds; None without folds.
      shown: tables beside those that every section has.
      targets: from names of classes to what heat maps of mistakes explain; None: these predictions
        have none.
      mistakes: the most confident ones with their maps, see `mistake_maps`; None: without maps.
    """

    title: str
    measured: Measured
    records: Sequence[Any] | RecordSource
    folds: Mapping[str, Mapping[str, Any]] | None = None
    shown: tuple[Shown, ...] = ()
    targets: Callable[[Sequence[str]], Targets] | None = None
    mistakes: "tuple[Mistake, ...] | None" = None

    def overall(self, name: str, interval: bool = True) -> str:
        """Formats one metric of the whole task: with its interval, or mean ± spread over folds.

        Args:
          name: of the metric, such as "auroc"; one that was not measured gives "–".
          interval: whether the interval is written where there are no folds.
        """
        if name not in self.measured.overall:
            return "–"
        if self.folds is not None:
            mean, spread = self.folds[name]["mean"], self.folds[name]["spread"]
            return "–" if mean is None else f"{mean:.3f} ± {spread or 0:.3f}"
        value = self.measured.overall[name]
        return str(value) if interval or math.isnan(value.value) else f"{value.value:.3f}"


class MaskExample(NamedTuple):
    """A photograph with a structure, as reports show it.

    Attributes:
      structure: its name.
      standing: "worst", "median" or "best", by Dice; or "only".
      name: of the photograph.
      dice: of the structure on it.
      truth, predicted: the photograph with the masks, RGB (h, w, 3) uint8.
      differences: pixels that are right, false and missed, as `overlays.differences_over` has them.
    """

    structure: str
    standing: str
    name: str
    dice: float
    truth: UInt8[np.ndarray, "h w 3"]
    predicted: UInt8[np.ndarray, "h w 3"]
    differences: UInt8[np.ndarray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class MaskSection:
    """Structures that a network finds, against what is drawn.

    Attributes:
      metrics: of every structure, at one half and at the thresholds that were chosen.
      thresholds: of the structures, by name: the network's.
      fitted_on: on what these were chosen, in a sentence; "": they are one half.
      scores: by structure, absent and present pixels by score, the lowest first, (2, bins).
      dices: by structure, Dice of each photograph that shows it, at the network's threshold.
      examples: photographs of each structure, the worst first.
      shown: tables beside those of the metrics.
    """

    metrics: SegmentationMetrics
    thresholds: Mapping[str, float]
    fitted_on: str
    scores: Mapping[str, Shaped[np.ndarray, "2 bins"]]
    dices: Mapping[str, Float[np.ndarray, " photographs"]]
    examples: tuple[MaskExample, ...] = ()
    shown: tuple[Shown, ...] = ()


@dataclasses.dataclass(frozen=True)
class ReportScores:
    """Scores of the reports of one writer.

    Attributes:
      writer: the network, or a baseline, in words.
      words: metrics of the words, of references as ids spell them: cut, with unknown words in them.
      whole: the same of whole references.
      clinical: metrics of the findings, of references as written.
      meteor: by its own program, of all reports together; None: it was left out.
      mean_meteor: the mean over reports.
      behind: of a baseline, by how much F1 of the network's findings is higher, on the same cases.
    """

    writer: str
    words: CaptionMetrics
    whole: CaptionMetrics
    clinical: ClinicalMetrics
    meteor: float | None = None
    mean_meteor: Estimate | None = None
    behind: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """Converts the scores to JSON values."""
        behind = {}
        if self.behind is not None:
            behind["f1_of_the_network_is_higher_by"] = self.behind.to_json()
        meteor = {}
        if self.meteor is not None and self.mean_meteor is not None:
            meteor = {
                "meteor": round(self.meteor, 6),
                "mean_meteor_of_reports": self.mean_meteor.to_json(),
            }
        return {
            "words": self.words.to_json() | meteor,
            "words_of_whole_references": self.whole.to_json(),
            "findings": self.clinical.to_json(),
            **behind,
        }


class WrittenRow(NamedTuple):
    """A case with its report and the one that was written.

    Attributes:
      case: its id.
      patient: whose it is.
      reference, report: the texts.
      log_probability: of the report.
      findings: what both say; where neither names a finding `f1` is NaN.
      f1, rouge_l: of this report alone.
    """

    case: str
    patient: str
    reference: str
    report: str
    log_probability: float
    findings: Marked
    f1: float
    rouge_l: float

    def to_json(self) -> dict[str, Any]:
        """Converts the row to JSON values."""
        found = {name: list(ids) for name, ids in self.findings.found._asdict().items()}
        f1 = None if math.isnan(self.f1) else round(self.f1, 6)
        return {
            "case": self.case,
            "patient": self.patient,
            "reference": self.reference,
            "report": self.report,
            "log_probability": round(self.log_probability, 4),
            "f1": f1,
            "rouge_l": round(self.rouge_l, 6),
            **found,
        }


#: A side, or "", and a photograph, RGB (h, w, 3) uint8, or what is said in the place of it.
Picture = tuple[str, UInt8[np.ndarray, "h w 3"] | str]


class ReportExample(NamedTuple):
    """A case as reports show it.

    Attributes:
      standing: "worst", "median" or "best", by the F1 of its findings and then by ROUGE-L; or
        "only".
      row: its texts.
      pictures: its photographs.
    """

    standing: str
    row: WrittenRow
    pictures: tuple[Picture, ...]


@dataclasses.dataclass(frozen=True)
class ReportSection:
    """Reports that a network writes, against those that were written.

    Attributes:
      scores: of the network, and then of the baselines.
      names: of conditions, by their ids.
      rows: every case.
      examples: cases, the worst first.
      shown: tables beside those of the metrics.
    """

    scores: tuple[ReportScores, ...]
    names: Mapping[str, str]
    rows: tuple[WrittenRow, ...]
    examples: tuple[ReportExample, ...] = ()
    shown: tuple[Shown, ...] = ()


@dataclasses.dataclass(eq=False)
class Results:
    """Findings of one evaluation.

    Attributes:
      data: dataset and split, in words.
      sections: classification, by protocol and setting.
      retrievals: by language, over `split`.
      masks: of a split with masks; None where no protocol compared with any.
      reports: of a split of cases; None where no protocol compared with their reports.
      split: with its embeddings; None where no protocol needed them.
      order: of the classes, where they are grades.
      by: the unit that intervals resample, "patient" or "image".
      document: the numbers as JSON values, with the data and the settings they belong to.
      checkpoint: where the network was loaded from, for the page; "" where nobody said.
    """

    data: str
    sections: list[Section] = dataclasses.field(default_factory=list)
    retrievals: dict[str, Retrieval] = dataclasses.field(default_factory=dict)
    masks: MaskSection | None = None
    reports: ReportSection | None = None
    split: EmbeddedSplit | None = None
    order: Order | None = None
    by: str = "patient"
    document: dict[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str = ""
