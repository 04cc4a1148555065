"""Finds a data set's published files in a local folder, or else downloads them.

tfds's downloader takes minutes to notice that there is no network. So this module first tries the
connection for a few seconds.
"""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorflow_datasets.core.download import resource

CONNECT_SECONDS = 4.0


def manual_folder(dl_manager: Any) -> Path:
    """The folder where tfds looks for manually downloaded files; it may not exist."""
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError:  # The folder does not exist or is empty.
        return Path(dl_manager.download_dir) / "manual"


def download(builder: Any, dl_manager: Any, urls: Sequence[str], advice: str = "") -> list[Path]:
    """Downloads files, or finds them in tfds's cache, and verifies their registered checksums.

    Args:
      builder: the tfds builder, in which sizes and checksums are registered.
      dl_manager: tfds's download manager.
      urls: the files' URLs.
      advice: a sentence to add to an error message.

    Returns:
      The files' paths, in the order of `urls`.

    Raises:
      OSError: the download failed. The message is one line, which names each file with its size and
        checksum, and the folder to put the files into.
    """
    infos = [builder.url_infos[url] for url in urls]
    try:
        for url, info in zip(urls, infos, strict=True):
            cached = resource.get_dl_fname(url, info.checksum)
            if not any(Path(dl_manager.download_dir).rglob(cached)):
                check_connection(url)
        return [Path(path) for path in dl_manager.download(list(urls))]
    except Exception as error:  # The downloader raises many kinds of errors.
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        files = "; ".join(
            f"{info.filename} ({info.size:,} bytes, sha256 {info.checksum})" for info in infos
        )
        raise OSError(
            f"cannot download {builder.name}: {reason}. Put into {manual_folder(dl_manager)}, or "
            f"into a folder named by --source: {files}. {advice}".rstrip()
        ) from error


def check_connection(url: str, seconds: float = CONNECT_SECONDS) -> None:
    """Checks that a URL's host answers, whatever the HTTP status.

    Raises:
      OSError: the host does not answer within `seconds`.
    """
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD")
    outcome: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
            outcome.put(None)
        except urllib.error.HTTPError:
            outcome.put(None)
        except (OSError, http.client.HTTPException) as error:
            outcome.put(str(getattr(error, "reason", error)))

    # This runs in a thread because a DNS lookup has no time limit of its own.
    threading.Thread(target=attempt, daemon=True).start()
    try:
        problem = outcome.get(timeout=seconds + 0.5)
    except queue.Empty:
        problem = f"no answer in {seconds:g} s"
    if problem:
        raise OSError(f"no connection to {parts.netloc} ({problem})")
