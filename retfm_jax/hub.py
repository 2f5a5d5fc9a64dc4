"""Files of repositories on the Hugging Face Hub, in the cache that all programs share.

An address is `hf:owner/name`, with `@revision` for a branch, a tag or a commit, and `:file` for one
file: `hf:jusiro2/FLAIR@main`. Cache, token and `HF_HUB_OFFLINE` are those of huggingface_hub; code
of a repository is never downloaded.
"""

import logging
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from retfm_jax.errors import UserError

_log = logging.getLogger(__name__)

SCHEME = "hf:"
_ADDRESS = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<file>[^:@]+))?", re.ASCII
)

#: What is downloaded of a tokenizer, where a repository has it.
TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
)


class Address(NamedTuple):
    """Place on the Hub.

    Attributes:
      repo: "owner/name".
      revision: branch, tag or commit; None for the default branch.
      file: path of one file in the repository; None where none is named.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}" + (f":{self.file}" if self.file else "")

    @property
    def page(self) -> str:
        """Page of the repository, for people."""
        return f"https://huggingface.co/{self.repo}"


class Snapshot(NamedTuple):
    """Files of one commit of a repository, as they lie in the cache.

    Attributes:
      folder: that holds them; what it has besides was downloaded by others.
      files: paths below it that were asked for.
      commit: hash of the commit, 40 digits.
    """

    folder: pathlib.Path
    files: tuple[str, ...]
    commit: str


#: Selects what is downloaded of the files of a repository; raises UserError where nothing fits.
Choose = Callable[[Sequence[str]], Iterable[str]]


def is_address(text: object) -> bool:
    """Tells whether a name is meant as an address on the Hub.

    Args:
      text: what a user gave; false where it is no text.
    """
    return isinstance(text, str) and text.startswith(SCHEME)


def address(text: str) -> Address:
    """Reads an address.

    Args:
      text: `hf:owner/name[@revision][:file]`.

    Raises:
      UserError: it has another form.
    """
    found = _ADDRESS.fullmatch(text)
    # A revision is a name in refs/, a file one below its commit: neither leaves its folder.
    if found is None or any(
        part in ("", ".", "..")
        for path in (found["repo"], found["revision"], found["file"])
        for part in ([] if path is None else path.split("/"))
    ):
        raise UserError(
            f"{text!r:.200} is no address on the Hub: give hf:owner/name, and where it is needed "
            "@revision or :file behind it"
        )
    return Address(found["repo"], found["revision"], found["file"])


def fetch(wanted: Address, choose: Choose) -> Snapshot:
    """Downloads files of a repository, or finds them in the cache.

    Without a network the cache is asked for what an earlier call downloaded, which is said.

    Args:
      wanted: the repository and its revision.
      choose: selects the files from the names of all that the commit has.

    Returns:
      the files, all of one commit.

    Raises:
      UserError: there is no such repository, revision or file; it is gated; it cannot be reached
        and is not in the cache; or `choose` finds nothing that fits.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    with _explained(wanted):
        try:
            info = HfApi().model_info(wanted.repo, revision=wanted.revision)
        except (errors.OfflineModeIsEnabled, _http_error()) as error:
            if isinstance(error, errors.HfHubHTTPError):
                raise  # it was reached, and refuses
            return _cached(wanted, choose, error)
        files = tuple(choose([each.rfilename for each in info.siblings or ()]))
        # By the revision's own name: under it the commit is found again without a network.
        paths = [hf_hub_download(wanted.repo, file, revision=wanted.revision) for file in files]
    folders = {
        pathlib.Path(path).parents[file.count("/")] for path, file in zip(paths, files, strict=True)
    }
    if {folder.name for folder in folders} != {info.sha}:
        raise UserError(f"{wanted} was changed while it was downloaded: try again")
    folder = folders.pop()
    return Snapshot(folder, files, folder.name)


def tokenizer_folder(text: str) -> tuple[pathlib.Path, str]:
    """Folder of a tokenizer on the Hub, downloaded where it is not in the cache.

    Args:
      text: address of a repository with a BERT tokenizer.

    Returns:
      the folder, and the address with the commit that was found.

    Raises:
      UserError: as `fetch`, or the repository has no vocabulary.
    """
    wanted = address(text)

    def choose(names: Sequence[str]) -> list[str]:
        found = [name for name in TOKENIZER_FILES if name in names]
        if not {"vocab.txt", "tokenizer.json"} & {*found}:
            raise UserError(
                f"{wanted} has neither vocab.txt nor tokenizer.json: it is no tokenizer"
            )
        return found

    snapshot = fetch(wanted, choose)
    return snapshot.folder, str(wanted._replace(revision=snapshot.commit))


def check_upload(repo: str) -> None:
    """Checks before long work that a repository can be meant, and that there is a token.

    Args:
      repo: "owner/name".

    Raises:
      UserError: the name has another form, or there is no token.
    """
    from huggingface_hub import get_token

    if not isinstance(repo, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise UserError(f"{repo!r:.200} is no name of a repository: give owner/name")
    if get_token() is None:
        raise UserError(
            f"uploading to {address(SCHEME + repo).page} needs a token that may write: `hf auth "
            "login`, or set HF_TOKEN"
        )


def upload(folder: pathlib.Path, repo: str, *, private: bool, revision: str | None) -> str:
    """Uploads all files of a folder as one commit; the repository is made where it is missing.

    Args:
      folder: whose files are uploaded.
      repo: "owner/name".
      private: whether a repository that is made is private.
      revision: branch to write, which is made where it is missing; None for the default one.

    Returns:
      the page of the repository.

    Raises:
      UserError: the token may not write there, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    api, target = HfApi(), Address(repo, revision)
    with _explained(target, "write"):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            commit_message="A network with its preprocessing",
        )
    return target.page


def _http_error() -> type[Exception]:
    """Base of what the HTTP library in use raises: no connection, no answer in time."""
    from huggingface_hub import errors

    return errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]


def _cached(wanted: Address, choose: Choose, error: BaseException) -> Snapshot:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = isinstance(error, OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
    try:
        folder = pathlib.Path(
            snapshot_download(wanted.repo, revision=wanted.revision, local_files_only=True)
        )
    except LocalEntryNotFoundError:
        remedy = "unset HF_HUB_OFFLINE" if offline else "connect this machine"
        raise UserError(
            f"{wanted} is not in the cache {constants.HF_HUB_CACHE}, and {why}: {remedy}, or "
            f"download the files from {wanted.page} elsewhere and give their folder"
        ) from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files, commit = tuple(choose(sorted(names))), folder.name
    if not offline:
        _log.warning("%s: %s, what was downloaded of commit %s is used", wanted, why, commit[:12])
    return Snapshot(folder, files, commit)


@contextmanager
def _explained(place: Address, doing: str = "read") -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence with a remedy."""
    from huggingface_hub import errors

    repo, page = place.repo, place.page
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"hf:{repo} is gated: accept its license on {page}, then `hf auth login` or set "
            "HF_TOKEN to a token of that account"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"there is no repository hf:{repo}, or it is private: look at {page}; for a private "
            "one `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"hf:{repo} has no revision {place.revision!r}: {page}/tree/main lists its branches "
            "and tags"
        ) from error
    except (errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"{place}: {_first_line(error)}; look at {page}/tree/main") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        remedy = (
            f"the token may not {doing} there: `hf auth login`, or set HF_TOKEN to one that may"
            if code in (401, 403)
            else "try again later"
        )
        raise UserError(f"cannot {doing} {place}: the Hub answers {code}; {remedy}") from error
    except (errors.OfflineModeIsEnabled, _http_error()) as error:
        raise UserError(
            f"cannot {doing} {place}, as the Hub cannot be reached ({_first_line(error)}): connect "
            "this machine, and look whether HF_HUB_OFFLINE is set"
        ) from error
    except OSError as error:
        raise UserError(f"cannot {doing} {place}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
