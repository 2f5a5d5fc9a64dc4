"""Files by https, which are kept in the user's cache: whole or not at all."""

import hashlib
import os
import pathlib
import urllib.error
import urllib.parse
import urllib.request

from retfm_jax.errors import UserError
from retfm_jax.files import atomic_write, reason
from retfm_jax.progress import progress_bar

#: The largest published network has 5 GB; what is larger is none.
LARGEST = 16 << 30
_CHUNK = 1 << 20
#: Seconds without an answer.
_TIMEOUT = 60


def cached_download(url: str, sha256: str | None = None, largest: int = LARGEST) -> pathlib.Path:
    """Downloads a file, or finds it in the cache `$XDG_CACHE_HOME/retfm_jax` (`~/.cache/...`).

    Args:
      url: begins with https://.
      sha256: of the file, 64 digits; None where it is not known.
      largest: bytes beyond which the download is refused.

    Returns:
      the path of the whole file.

    Raises:
      UserError: it cannot be reached or written, is larger, or has another SHA-256.
    """
    path = _cache() / hashlib.sha256(url.encode()).hexdigest()[:16] / _file_name(url)
    if path.is_file():
        return path
    digest, count = hashlib.sha256(), 0
    try:
        with _open(url) as answer, atomic_write(path, "wb") as file:
            stated = answer.headers.get("Content-Length", "")
            total = int(stated) if stated.isdecimal() else None
            with progress_bar(
                desc=path.name, total=total, unit="B", unit_scale=True, unit_divisor=1024
            ) as bar:
                while chunk := answer.read(_CHUNK):
                    count += len(chunk)
                    if count > largest:
                        raise UserError(f"{url} has more than {largest:,} bytes: it is not read")
                    digest.update(chunk)
                    file.write(chunk)
                    bar.update(len(chunk))
            if total is not None and count != total:
                raise UserError(f"{url} ended after {count:,} of {total:,} bytes: try again")
            if sha256 is not None and digest.hexdigest() != sha256:
                raise UserError(
                    f"{url} has the SHA-256 {digest.hexdigest()}, not {sha256}: its owner changed "
                    "it, or somebody else did"
                )
    except OSError as error:
        raise UserError(
            f"cannot download {url} ({_why(error)}): download it elsewhere, and give its path"
        ) from error
    return path


def _cache() -> pathlib.Path:
    try:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    except RuntimeError as error:
        raise UserError("this user has no home: set XDG_CACHE_HOME to a folder") from error
    return base / "retfm_jax" / "weights"


def _file_name(url: str) -> str:
    return pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name or "weights"


class _SecureOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to https alone."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check(url: str) -> None:
    if not url.startswith("https://"):
        raise UserError(f"{url} does not begin with https://: it is not downloaded")


def _open(url: str):
    _check(url)
    return urllib.request.build_opener(_SecureOnly).open(url, timeout=_TIMEOUT)


def _why(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        return reason(error.reason)
    return reason(error)
