"""Published models by name: their address, license, and how they take photographs."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml

from retfm_jax import hub
from retfm_jax.config import ImageConfig, build_section
from retfm_jax.errors import UserError, did_you_mean
from retfm_jax.ranges import Filled, Name, Positive, Section

_FILE = pathlib.Path(__file__).with_name("zoo.yaml")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What stands for data sets, or a license, that are not established.
UNKNOWN = "unknown"

_Names = Annotated[tuple[Name, ...], Filled()]


@dataclasses.dataclass(frozen=True)
class ZooModel(Section):
    """Entry of the zoo: what is established of a published model.

    Attributes:
      name: by which it is loaded.
      title: as its owners call it.
      reads: what of it is read here: the whole "network", or its image "tower" alone.
      tower: architecture, in words.
      modality: what its images show: "cfp", "oct", "ffa", "slo", or "natural" images.
      page: of its owners.
      license: the Hub's short name; "unknown" where the owners state none.
      image: how photographs become its input, with the size of the published network.
      trained_on: names of data sets; "unknown" stands for those that are not established.
      citation: of the paper.
      address: `hf:owner/name[:file]`, or a file by https; None: there is no direct one.
      by_hand: where the owners' page leads, where there is no address.
      terms: of the license, in words.
      pooling: of the tower's features; None: what names and shapes tell.
      tokenizer: address of its vocabulary, where that is not the bundled one.
      context_length: of its texts, tokens; None: that of the method.
      sha256: of the file, where it is known.
      unreadable: why its weights cannot be read here; None: they can.
      notes: sentences on what differs from its owners' code.
    """

    name: Name
    title: Name
    reads: Literal["network", "tower"]
    tower: Name
    modality: _Names
    page: Name
    license: Name
    image: ImageConfig
    trained_on: _Names
    citation: Name
    address: Name | None = None
    by_hand: Name | None = None
    terms: Name | None = None
    pooling: Literal["class", "mean", "mean_norm"] | None = None
    tokenizer: Name | None = None
    context_length: Positive | None = None
    sha256: Name | None = None
    unreadable: Name | None = None
    notes: tuple[Name, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if (self.address is None) == (self.by_hand is None):
            raise ValueError("give address, or by_hand where there is none")
        if not self.page.startswith("https://"):
            raise ValueError(f"page {self.page!r} is none of https")
        for address in filter(None, (self.address, self.tokenizer)):
            if not address.startswith("https://"):
                hub.address(address)
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError("sha256 has 64 digits")

    @property
    def described_license(self) -> str:
        """The license, with its terms."""
        return f"{self.license} ({self.terms})" if self.terms else self.license

    @property
    def source(self) -> str:
        """Address, or how the file is found by hand."""
        return self.address or f"by hand: {self.by_hand}, {self.page}"


@functools.cache
def zoo() -> Mapping[str, ZooModel]:
    """Entries of the bundled zoo by name, in its order.

    Raises:
      UserError: an entry is malformed.
    """
    read: Any = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {
        name: build_section(ZooModel, {"name": name, **entry}, f"zoo.{name}")
        for name, entry in read["models"].items()
    }


def zoo_model(name: str) -> ZooModel:
    """Entry of a name.

    Args:
      name: as `zoo` lists it; upper and lower case matter.

    Raises:
      UserError: there is no such entry.
    """
    if name not in zoo():
        raise UserError(
            f"no published model is called {name!r} (`retfm models` lists them)"
            + did_you_mean(name, zoo())
        )
    return zoo()[name]


def entry_of(address: hub.Address) -> ZooModel | None:
    """The one entry whose weights lie at an address; None where there is none, or several.

    Args:
      address: on the Hub; where it names no file, entries of its repository count.
    """
    found = []
    for model in zoo().values():
        if model.address is not None and hub.is_address(model.address):
            theirs = hub.address(model.address)
            if theirs.repo == address.repo and address.file in (None, theirs.file):
                found.append(model)
    return found[0] if len(found) == 1 else None


@dataclasses.dataclass(frozen=True)
class Origin(Section):
    """Where the weights of a model come from.

    Attributes:
      source: address with the commit, or the path of a file, as it was read.
      title: of the published model; None where it is not known.
      license: of the weights; "unknown" where it is not known.
      terms: of the license, in words.
      trained_on: names of data sets; "unknown" stands for those that are not established.
      citation: of the paper.
      page: of its owners.
    """

    source: Name
    title: Name | None = None
    license: Name = UNKNOWN
    terms: Name | None = None
    trained_on: _Names = (UNKNOWN,)
    citation: Name | None = None
    page: Name | None = None

    @classmethod
    def of(cls, source: str, model: ZooModel | None) -> "Origin":
        """Origin of weights that were read.

        Args:
          source: see the attributes.
          model: entry of the zoo; None where the weights are of none.
        """
        if model is None:
            return cls(source)
        return cls(
            source,
            model.title,
            model.license,
            model.terms,
            model.trained_on,
            model.citation,
            model.page,
        )

    @classmethod
    def from_json(cls, values: Any, where: str) -> "Origin":
        """Reads what `dataclasses.asdict` and JSON made of one.

        Args:
          values: JSON values.
          where: name of what was read, for the message.

        Raises:
          UserError: it is something else.
        """
        return build_section(cls, values, f"{where}: origin")

    def __str__(self) -> str:
        """Says it in one sentence."""
        terms = f" ({self.terms})" if self.terms else ""
        title = f"{self.title}, " if self.title else ""
        return f"{title}license {self.license}{terms}, from {self.source}"
