"""The verbs that bring several rooms together: train, embed, import, export, quickstart."""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from retfm_jax.config import ExperimentConfig, load_config
from retfm_jax.console import say
from retfm_jax.data import image_files, photographs
from retfm_jax.data.building.validation import ProblemLog
from retfm_jax.data.cells import is_empty
from retfm_jax.data.importing import tables
from retfm_jax.data.sources import RecordSource, open_dataset
from retfm_jax.errors import Stopped, Unusable, UserError, did_you_mean
from retfm_jax.evaluation.embeddings import refuse_unusable
from retfm_jax.files import (
    Path,
    PathLike,
    absolute,
    as_path,
    atomic_write,
    check_writable,
    is_remote,
    read_json,
    write_json,
)
from retfm_jax.interop.initial import initial_network
from retfm_jax.interop.weights import check_suffix, write_tensors
from retfm_jax.knowledge.labels import shared_labeler
from retfm_jax.knowledge.wording import ReportWording
from retfm_jax.methods import make_method, method_names
from retfm_jax.methods.base import Method, MethodState, Params
from retfm_jax.model import RetinalModel, load, load_checkpoint, load_weights, to_torch
from retfm_jax.runtime import distributed
from retfm_jax.runtime.checkpoints import (
    FOLDER,
    find_checkpoint,
    nameable,
    remove_half_written,
    save_network,
)
from retfm_jax.runtime.compilation import keep_programs
from retfm_jax.runtime.lock import hold
from retfm_jax.runtime.mesh import check_batch_size
from retfm_jax.training import loop, requirements


def train(args: argparse.Namespace) -> None:
    """`retfm train`.

    Raises:
      Stopped: a signal ended it before its last step.
      UserError: see `run_training`.
    """
    config = load_config(args.config, args.overrides)
    distributed.start()
    train_to_the_end(config, args.workdir)
    if jax.process_index() == 0:
        say(f"next: retfm evaluate --workdir {args.workdir} --out {args.workdir}/evaluation.json")


def train_to_the_end(config: ExperimentConfig, workdir: PathLike) -> None:
    """`run_training`, for callers whose next step wants a trained network.

    Raises:
      Stopped: a signal ended it before its last step.
      UserError: see `run_training`.
    """
    if not run_training(config, workdir):
        raise Stopped(
            f"stopped in {workdir} before its last step; the same command goes on from there "
            f"(exit status {Stopped.exit_status}, where 0 would mean finished)"
        )


def run_training(config: ExperimentConfig, workdir: PathLike) -> bool:
    """Trains an experiment in a workdir, from its newest checkpoint or from the beginning.

    Returns:
      whether it came to its last step; False where a signal stopped it before.

    Raises:
      UserError: the data or the initial weights cannot be used, or see `training.loop.run`.
    """
    keep_programs()
    method = make_method(config.method, config.model)
    # First: what is wrong with data or tokenizer is said before a large network is drawn.
    requirements.check_splits(config)
    mesh = loop.make_mesh(config.mesh)
    check_batch_size(config.train.batch_size, config.train.microbatches, mesh)
    data = loop.TrainingData.of(config, method)

    def weights() -> tuple[Params, dict[str, Any]]:
        params, state = initial_network(config, method)
        return params, state.batch_stats

    state = loop.run(
        config,
        workdir,
        method,
        data,
        weights=weights,
        evaluate=interval_evaluation(config, method, data.wording),
    )
    return int(state.step) >= loop.total_steps(config, data)


def interval_evaluation(
    config: ExperimentConfig,
    method: Method,
    wording: Callable[[], ReportWording | None] = lambda: None,
) -> loop.Evaluate:
    """Zero-shot AUROC and retrieval on the evaluation split, compiled once for a whole run.

    A split without labels has those that its reports tell.

    Args:
      wording: of the training split's reports, asked for at the first evaluation.
    """
    from retfm_jax.evaluation.evaluate import quick_metrics
    from retfm_jax.evaluation.report_labels import with_labels

    model = RetinalModel(method, {}, MethodState({}, {}), config)
    data = config.data

    @functools.cache
    def source() -> RecordSource:
        opened = open_dataset(data.dataset, data.eval_split, data.data_dir)
        return with_labels(opened, shared_labeler(data.vocabulary, data.extend))

    def evaluate(params: Params, state: MethodState) -> Mapping[str, float]:
        params, stats = jax.device_put(distributed.to_host((params, state.batch_stats)))
        model.params, model.state = params, MethodState(stats, {})
        model.wording = wording()
        return quick_metrics(model, source(), config.evaluation)

    return evaluate


def embed(args: argparse.Namespace) -> None:
    """`retfm embed`: paths and unit-norm embeddings of photographs."""
    out = as_path(args.out)
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"--out {out}: embeddings are written as .npz or .parquet")
    check_writable(out)
    paths, unusable = _image_paths(args.images)
    refuse_unusable(unusable, args.on_error)
    damaged: list[tuple[int, str]] = []
    embeddings = load(args.workdir).encode_images(
        paths, progress=True, unusable=None if args.on_error == "refuse" else damaged
    )
    unusable += [said for _, said in damaged]
    kept = np.setdiff1d(np.arange(len(paths)), [place for place, _ in damaged])
    if unusable:
        say(f"{len(unusable)} images left out:", *unusable[:50], *["..."] * (len(unusable) > 50))
    if not len(kept):
        raise UserError(f"--images {args.images}: none of its images can be used")
    names, embeddings = _written([str(paths[place]) for place in kept]), embeddings[kept]
    with atomic_write(out, "wb") as file:
        if out.suffix == ".npz":
            np.savez(file, image=np.array(names), embedding=embeddings)
        else:
            import pandas as pd

            pd.DataFrame({"image": names, "embedding": list(embeddings)}).to_parquet(file)
    say(f"{len(names)} embeddings of width {embeddings.shape[1]} in {out}")


def _written(names: list[str]) -> list[str]:
    """Names as files of tables can hold them: bytes that are no UTF-8 as escapes, and said."""
    written = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    odd = sum(map(str.__ne__, names, written))
    if odd:
        say(f"{odd} names hold bytes that are no UTF-8; they are written as escapes, such as \\xff")
    return written


def _image_paths(images: PathLike) -> tuple[list[Path], list[str]]:
    """Photographs of a folder or CSV, or one; and what is to be said of those that are unusable."""
    source = as_path(images)
    if source.is_dir():
        listing = photographs.find(source)
        said = photographs.sentence(listing.passed_over)
        if said:
            say(said)
        if not listing.photographs:
            raise UserError(f"--images {source}: no image in it" + f" ({said})" * bool(said))
        return listing.paths(), [f"{source / name} holds no image" for name in listing.broken]
    if not source.is_file():
        raise UserError(f"--images {source}: no such folder or CSV")
    if photographs.is_image(source):
        return [source], []
    problems = ProblemLog()
    table = tables.read_csv(source, problems)
    tables.require_columns(table, ["image"])
    unusable = [f"{source} row {problem.row}: {problem.what}" for problem in problems.problems]
    paths, respelt = [], []
    for line in table.rows:
        name = line.cells["image"]
        if is_empty(name):
            continue
        path = source.parent / name
        if not _is_there(path):
            try:
                found = image_files.locate(source.parent, name, follow_links=True)
            except Unusable as error:
                unusable.append(f"{source} row {line.row}: {error}")
                continue
            path = found.path
            respelt.append((name, found.spelt))
        paths.append(path)
    if respelt:
        say(image_files.respelt(respelt))
    if not paths:
        first = f": {unusable[0]}" if unusable else ""
        raise UserError(f"--images {source}: no image in it{first}")
    return paths, unusable


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have
        return False


def import_weights(args: argparse.Namespace) -> None:
    """`retfm import`: a published weight file becomes a workdir."""
    workdir = nameable(args.workdir)
    _refuse_taken(workdir)
    model = load_weights(args.weights, args.method, args.text_num_heads)
    meta = model.meta | {"imported_from": str(absolute(args.weights))}
    # The checkpoint comes last: without it the workdir is none, and the same command goes on.
    config = workdir / "config.json"
    if config.exists() and read_json(config) != json.loads(json.dumps(meta["config"])):
        raise _taken(workdir)
    write_json(config, meta["config"])
    save_network(workdir / FOLDER / "0", model.params, model.state.batch_stats, meta)
    tensors = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    say(f"{args.method} network with {tensors:,} parameters in {workdir}")


def _refuse_taken(workdir: Path) -> None:
    """Refuses a workdir that holds anything but what a killed import leaves."""
    if not workdir.exists():
        return
    if workdir.is_dir() and {path.name for path in workdir.iterdir()} <= {"config.json", FOLDER}:
        remove_half_written(workdir / FOLDER)
        if not (workdir / FOLDER).is_dir() or not any((workdir / FOLDER).iterdir()):
            return
    raise _taken(workdir)


def _taken(workdir: Path) -> UserError:
    return UserError(f"--workdir {workdir} is not empty: give a new folder")


def export(args: argparse.Namespace) -> None:
    """`retfm export`: a workdir's network under its published names."""
    known = [*method_names(), "chinese_clip"]
    if args.to not in known and ":" not in args.to:
        meant = did_you_mean(args.to, known)
        raise UserError(f"--to {args.to}: give one of {', '.join(known)}{meant}")
    folder = args.to == "chinese_clip"
    out = as_path(args.out) if folder else check_suffix(args.out)
    check_writable(out / "config.json" if folder else out)
    model, meta = load_checkpoint(args.workdir)
    _refuse_own_source(out, args.workdir, model.config, meta)
    if folder:
        from retfm_jax.interop.huggingface import write_chinese_clip

        write_chinese_clip(args.out, model.method, model.params, model.state, model.data_config)
        say(f"transformers' ChineseCLIPModel opens {args.out}")
        return
    method = model.config.method
    if args.to != method:
        raise UserError(f"{args.workdir} holds a {method} network; export it --to {method}")
    tensors = to_torch(model)
    write_tensors(args.out, tensors, container=args.container)
    say(f"{len(tensors)} tensors in {args.out}")


def _refuse_own_source(
    out: Path, workdir: str, config: ExperimentConfig, meta: Mapping[str, Any]
) -> None:
    """Refuses to write an export over what the network came from, or among its checkpoints."""
    init = config.init
    sources = (meta.get("imported_from"), init.weights, init.image, init.text)
    for source in filter(None, sources):
        if _real(source) == _real(out):
            raise UserError(
                f"--out {out} is the file that the network began with: give another name"
            )
    if _real(find_checkpoint(workdir)) in (_real(out), *_real(out).parents):
        raise UserError(f"--out {out} is within a checkpoint: give another folder")


def _real(path: PathLike) -> Path:
    return as_path(path) if is_remote(path) else as_path(path).resolve()


def quickstart(args: argparse.Namespace) -> None:
    """`retfm quickstart`: from nothing to a trained, evaluated and exported RET-CLIP.

    Raises:
      Stopped: a signal ended its training.
      UserError: another process writes the workdir, or see `run_training`.
    """
    from retfm_jax.data.building.builder import quiet_tfds
    from retfm_jax.data_builders.synthetic_fundus import synthetic_fundus_dataset_builder as drawn
    from retfm_jax.evaluation import evaluate

    began = time.monotonic()
    workdir = as_path(args.workdir)
    data_dir = workdir / "datasets"
    config = load_config("quickstart", [f"data.data_dir={data_dir}"])
    with hold(workdir):
        size = config.data.image.size
        _say(began, f"drawing patients with two eyes at {size} px")
        with quiet_tfds(bars=True):
            drawn.build(data_dir, patients=3000, image_size=size)
        _say(began, "training a small RET-CLIP on their reports, English and Chinese")
        train_to_the_end(config, workdir)
        _say(began, "evaluating it on patients that it has not seen")
        out = workdir / "evaluation.json"
        evaluate.evaluate(
            load(workdir),
            protocols=("zero_shot", "retrieval"),
            dataset=config.data.dataset,
            data_dir=str(data_dir),
            split="test",
            out=out,
        )
        weights = workdir / "retclip.safetensors"
        write_tensors(weights, to_torch(load(workdir)))
        _say(began, "done")
        say(f"picture  {out.with_suffix('.png')}", f"page     {out.with_suffix('.html')}")
        say(f"numbers  {out}", f"weights  {weights}")


def _say(began: float, what: str) -> None:
    say(f"[{time.monotonic() - began:5.0f} s] {what}")
