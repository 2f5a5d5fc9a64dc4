"""Networks of a suite: loaded one at a time, with what a reader must know of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from retfm_jax.errors import UserError
from retfm_jax.experiments.benchmark.contamination import trained_on
from retfm_jax.experiments.benchmark.photographs import Place
from retfm_jax.experiments.benchmark.results import ModelFacts, folder_name
from retfm_jax.experiments.benchmark.suite import ModelEntry
from retfm_jax.files import Path, read_json, remove, rename, write_json
from retfm_jax.model import RetinalModel, load
from retfm_jax.runtime.compilation import held_bytes
from retfm_jax.runtime.lock import hold
from retfm_jax.training.flops import count_program
from retfm_jax.trees import digest, flatten

#: In the folder of a model: its facts, and its network where fine-tuning needs a copy.
FACTS, NETWORK = "model.json", "network"
#: Photographs that the network takes at once, as `RetinalModel` does.
BATCH = 32
#: Where every method has its image tower.
_TOWER = "visual/"


@dataclasses.dataclass(frozen=True)
class TowerCost:
    """What the image tower of a network takes, the same on every machine of one kind.

    Attributes:
      parameters: of the image tower.
      flops: of one image.
      memory: of the device for `BATCH` images as compiled, in bytes.
    """

    parameters: int
    flops: float
    memory: int


@dataclasses.dataclass(frozen=True)
class Network:
    """A model of a suite, loaded.

    Attributes:
      name, entry: in the suite.
      model: the network.
      facts: what a reader must know of it.
      cost: of its image tower.
    """

    name: str
    entry: ModelEntry
    model: RetinalModel
    facts: ModelFacts
    cost: TowerCost


class Networks:
    """Loads the networks of a suite, and holds the last one.

    Args:
      place: of the benchmark.
      seed: of fresh weights.
    """

    def __init__(self, place: Place, seed: int):
        self._place, self._seed = place, seed
        self._last: Network | None = None
        self._failed: dict[str, UserError] = {}

    def open(self, name: str, entry: ModelEntry) -> Network:
        """Loads a network, and makes sure that it is the one of the cells before.

        Args:
          name, entry: of the model, in the suite.

        Raises:
          UserError: it cannot be loaded, or its weights have changed since other cells were
            measured.
        """
        if name in self._failed:  # some take minutes to fail
            raise self._failed[name]
        if self._last is None or (self._last.name, self._last.entry) != (name, entry):
            self._last = None  # before another one takes its memory
            try:
                self._last = self._opened(name, entry)
            except UserError as error:
                self._failed[name] = error
                raise
        return self._last

    def _opened(self, name: str, entry: ModelEntry) -> Network:
        given = {key: getattr(entry, key) for key in ("zoo", "pooling", "tokenizer")}
        model = load(entry.load, entry.method, **given)
        if entry.untrained:
            model = untrained(model, self._seed)
        folder = self.folder(name)
        checksum = digest(model.params, model.state.batch_stats)
        if (folder / FACTS).is_file():
            facts, cost = _read(folder / FACTS)
            if facts.checksum != checksum:
                raise UserError(
                    f"model {name}: the weights of {entry.load} are not those that this benchmark "
                    f"began with ({folder / FACTS}): take a new folder for the benchmark, or bring "
                    "the weights back"
                )
            return Network(name, entry, model, facts, cost)
        facts = _facts(name, entry, model, checksum)
        cost = tower_cost(model)
        said = {"facts": dataclasses.asdict(facts), "cost": dataclasses.asdict(cost)}
        write_json(folder / FACTS, said)
        return Network(name, entry, model, facts, cost)

    def folder(self, name: str) -> Path:
        """Folder of what is kept of a model.

        Args:
          name: of the model, in the suite.
        """
        return self._place.out / "models" / folder_name(name)

    def initial(self, network: Network) -> str:
        """What training can begin with, as `config.init.image` takes it.

        A network that only this suite knows how to make, or to read, is written into the benchmark.

        Args:
          network: as `open` returned it.

        Raises:
          Held: another process writes it.
          UserError: it cannot be written.
        """
        entry = network.entry
        if not entry.untrained and not any((entry.method, entry.zoo, entry.pooling)):
            return entry.load
        folder = self.folder(network.name)
        path = folder / NETWORK
        with hold(folder):
            if not path.exists():
                writing = folder / f".{NETWORK}"
                remove(writing)
                network.model.save(writing)
                rename(writing, path)
        return str(path)


def read_model_facts(folder: Path) -> ModelFacts | None:
    """Facts of a model that has been loaded before; else None.

    Args:
      folder: of the model, see `Networks.folder`.

    Raises:
      UserError: its file is damaged.
    """
    return _read(folder / FACTS)[0] if (folder / FACTS).is_file() else None


def untrained(model: RetinalModel, seed: int) -> RetinalModel:
    """The same network with fresh weights.

    Args:
      model: whose network it is.
      seed: of the weights.
    """
    params, state = jax.jit(model.method.init)(jax.random.key(seed))
    params = jax.tree.map(np.asarray, params)
    stats = jax.tree.map(np.asarray, state.batch_stats)
    notes = (f"fresh weights, seed {seed}: nothing was learned",)
    return RetinalModel(
        model.method, params, state._replace(batch_stats=stats, carry={}), model.config, notes=notes
    )


def tower_cost(model: RetinalModel) -> TowerCost:
    """Counts what the image tower takes; it is compiled, and nothing is computed.

    Args:
      model: whose tower it is.
    """
    method, size = model.method, model.data_config.image.size

    def features(params: Any, state: Any, images: Any) -> Any:
        return method.image_features(params, state, images)

    images = jax.ShapeDtypeStruct((BATCH, size, size, 3), jnp.float32)
    trees = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), model.params)
    traced = jax.jit(features).trace(trees, model.state, images)
    memory = traced.lower().compile().memory_analysis()
    leaves = flatten(model.params)
    tower = {path: leaf for path, leaf in leaves.items() if path.startswith(_TOWER)} or leaves
    return TowerCost(
        parameters=sum(int(leaf.size) for leaf in tower.values()),
        flops=(count_program(traced) or 0) / BATCH,
        memory=held_bytes(memory) or 0,
    )


def _facts(name: str, entry: ModelEntry, model: RetinalModel, checksum: str) -> ModelFacts:
    sets: tuple[str, ...] = ()
    if entry.trained_on is not None:
        sets = entry.trained_on
    elif not entry.untrained:
        sets = tuple(trained_on(entry.zoo or entry.load))
    origin = "fresh weights" if entry.untrained else str(model.origin or entry.load)
    return ModelFacts(
        name=name,
        method=model.method.name,
        origin=origin,
        trained_on=sets,
        texts=model.method.text is not None,
        parameters=sum(int(leaf.size) for leaf in jax.tree.leaves(model.params)),
        image_size=model.data_config.image.size,
        notes=tuple(model.notes),
        checksum=checksum,
    )


def _read(path: Path) -> tuple[ModelFacts, TowerCost]:
    said: Mapping[str, Any] = read_json(path)
    try:
        lists = {key: tuple(said["facts"][key]) for key in ("trained_on", "notes")}
        return ModelFacts(**{**said["facts"], **lists}), TowerCost(**said["cost"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no model of a benchmark: remove it") from error
