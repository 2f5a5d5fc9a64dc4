"""Training runs: an experiment in a workdir, evaluated on its way."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from retfm_jax.config import ExperimentConfig
from retfm_jax.data.cases import Cases, MixedCases
from retfm_jax.data.labeled import LabeledSource
from retfm_jax.data.segmented import SegmentedSource
from retfm_jax.data.sources import RecordSource, open_dataset
from retfm_jax.errors import Stopped
from retfm_jax.experiments import finetuning, training_page
from retfm_jax.files import PathLike
from retfm_jax.interop.initial import initial_network
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.wording import ReportWording
from retfm_jax.methods import make_method
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.model import RetinalModel
from retfm_jax.runtime import distributed
from retfm_jax.runtime.compilation import enable_compilation_cache
from retfm_jax.runtime.mesh import check_batch_size
from retfm_jax.training import loop, requirements

#: What a run is evaluated on.
Validation = LabeledSource | SegmentedSource | Cases | MixedCases


def train_to_the_end(config: ExperimentConfig, workdir: PathLike) -> None:
    """Runs `run_training`, for callers whose next step wants a trained network.

    Args:
      config, workdir: see `run_training`.

    Raises:
      Stopped: a signal ended it before its last step.
      UserError: see `run_training`.
    """
    if not run_training(config, workdir):
        raise Stopped(
            f"stopped in {workdir} before its last step; the same command resumes from there "
            f"(exit status {Stopped.exit_status}, where 0 would mean finished)"
        )


def run_training(config: ExperimentConfig, workdir: PathLike) -> bool:
    """Trains an experiment in a workdir, from its newest checkpoint or from the beginning.

    Args:
      config: the experiment.
      workdir: gets checkpoints, metrics and their page.

    Returns:
      whether it reached its last step; False where a signal stopped it before.

    Raises:
      UserError: the data or the initial weights cannot be used, or see `training.loop.run`.
    """
    enable_compilation_cache()
    method, prepared = make_method(config.method, config.model), None
    # First: what is wrong with data or tokenizer is said before a large network is initialized.
    mesh = loop.make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, config.train.microbatches, mesh)
    if finetuning.told(config) is not None:
        prepared = finetuning.prepare(config, workdir)
        finetuning.tell(prepared.said)
        config = prepared.config
        method = make_method(config.method, config.model)
        data = loop.TrainingData.of(config, method, prepared.data.sources["train"])
    else:
        requirements.check_splits(config)
        data = loop.TrainingData.of(config, method)

    def weights() -> tuple[Params, dict[str, Any]]:
        params, state = initial_network(config, method)
        # On the host: what was read lies on one device, and the mesh may have others.
        return jax.tree.map(np.asarray, (params, state.batch_stats))

    validation = None if prepared is None else prepared.data.sources.get("validation")
    if prepared is None:
        evaluate = interval_evaluation(config, method, data.wording)
    else:
        evaluate = None if validation is None else own_evaluation(config, method, validation)
    state = loop.run(config, workdir, method, data, weights=weights, evaluate=evaluate)
    if jax.process_index() == 0:
        training_page.write(config, workdir)
    finished = int(state.step) >= loop.total_steps(config, data)
    if finished and isinstance(validation, LabeledSource | SegmentedSource):
        finetuning.fit(workdir, validation)
    return finished


def own_evaluation(
    config: ExperimentConfig, method: Method, validation: Validation
) -> loop.Evaluate:
    """Metrics of the network's own classes, structures or reports on the validation split.

    It is compiled once for a whole run.

    Args:
      config: the experiment.
      method: whose network is evaluated.
      validation: the split.

    Returns:
      a function from parameters and state to metrics by name, see `class_metrics.class_metrics`,
      `structure_metrics.structure_metrics` and `caption_metrics.caption_metrics`.
    """
    from retfm_jax.evaluation.caption_metrics import caption_metrics
    from retfm_jax.evaluation.class_metrics import class_metrics
    from retfm_jax.evaluation.structure_metrics import structure_metrics

    model = RetinalModel(method, {}, MethodState({}, {}), config)

    def evaluate(params: Params, state: MethodState) -> Mapping[str, float]:
        params, stats = jax.device_put(distributed.to_host((params, state.batch_stats)))
        model.params, model.state = params, MethodState(stats, {})
        if isinstance(validation, Cases | MixedCases):
            return caption_metrics(model, validation)
        if isinstance(validation, SegmentedSource):
            return structure_metrics(model, validation)
        return class_metrics(model, validation)

    return evaluate


def interval_evaluation(
    config: ExperimentConfig,
    method: Method,
    wording: Callable[[], ReportWording | None] = lambda: None,
) -> loop.Evaluate:
    """Zero-shot AUROC and retrieval on the evaluation split, compiled once for a whole run.

    A split without labels gets those of its reports.

    Args:
      config: the experiment, whose evaluation split is opened at the first evaluation.
      method: whose network is evaluated.
      wording: of the training split's reports, asked for at every evaluation.

    Returns:
      a function from parameters and state to metrics by name.
    """
    from retfm_jax.evaluation.evaluate import quick_metrics
    from retfm_jax.evaluation.report_labels import with_labels

    model = RetinalModel(method, {}, MethodState({}, {}), config)
    data = config.data

    @functools.cache
    def source() -> RecordSource:
        opened = open_dataset(data.dataset, data.eval_split, data.data_dir, data.exclude)
        return with_labels(opened, shared_labeler(data.vocabulary, data.extend))

    def evaluate(params: Params, state: MethodState) -> Mapping[str, float]:
        params, stats = jax.device_put(distributed.to_host((params, state.batch_stats)))
        model.params, model.state = params, MethodState(stats, {})
        model.wording = wording()
        return quick_metrics(model, source(), config.evaluation)

    return evaluate
