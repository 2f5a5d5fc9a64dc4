"""Image-report retrieval as a protocol."""

from collections.abc import Mapping
from typing import Any

from retfm_jax.console import say
from retfm_jax.errors import UserError
from retfm_jax.evaluation.metrics.retrieval import retrieve
from retfm_jax.evaluation.protocols.base import Protocol
from retfm_jax.evaluation.requirements import check_reports
from retfm_jax.evaluation.results import LANGUAGE_NAMES
from retfm_jax.evaluation.study import Study


class RetrievalProtocol(Protocol):
    """Reports looked up by images and images by reports, in every language with two reports."""

    name = "retrieval"
    compares_texts = True
    needs_labels = False

    def check(self, study: Study) -> None:
        check_reports(study.source, study.options.languages)

    def run(self, study: Study) -> Mapping[str, Any]:
        split, languages = study.embedded, study.options.languages
        seen = split.views[split.main_view].seen
        counts = {
            language: int((seen & [bool(text.strip()) for text in split.reports[language]]).sum())
            for language in languages
        }
        usable = [language for language, count in counts.items() if count > 1]
        if not usable:
            raise UserError(
                f"retrieval needs reports in {' or '.join(languages)}; the split has fewer than "
                "two with an image that can be used"
            )
        for language in set(counts) - set(usable):
            if counts[language]:
                name = LANGUAGE_NAMES[language]
                say(f"retrieval in {name} is left out: the split has one report")
        found = {language: retrieve(split, language) for language in usable}
        study.results.retrievals |= found
        return {language: retrieval.to_json() for language, retrieval in found.items()}
