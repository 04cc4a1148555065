"""Writes the repository's address into the notebooks: `python -m experiments.link_notebooks`.

The address is kept in one place, `url` under `[metadata]` of setup.cfg. It is written into each
notebook's badge, which then opens the notebook on Colab, and into its install cell. Without an
address, both say what to do.
"""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from absl import flags

from experiments.run import cli
from wiseale_jax import files

FLAGS = flags.FLAGS

ROOT = Path(__file__).resolve().parents[1]

_COLAB = "https://colab.research.google.com/github/"
_NOTE = (
    "\n\n<sub>The badge opens Colab's GitHub page: put the address of the repository there that "
    "you found this notebook in. Or download the notebook and upload it to Colab.</sub>"
)
_WHAT = "# What `git clone` takes."
_UNKNOWN = f"{_WHAT} No address of this project is published yet: fill in the one you know."


def main(argv: list[str]) -> None:
    """Writes the notebooks, or checks them."""
    del argv
    url = read_url(ROOT / "setup.cfg")
    others = link(ROOT / "notebooks", url, write=not FLAGS.check)
    where = url or "no address: setup.cfg has no url"
    if FLAGS.check and others:
        raise ValueError(f"{', '.join(others)} does not have {where}; run this without --check")
    print(f"{where}: {len(others)} notebooks written" if others else f"{where}: nothing to do")


def read_url(path: Path) -> str | None:
    """The address in setup.cfg, https://github.com/OWNER/NAME; None if there is none.

    Raises:
      ValueError: the address is of another kind, which Colab cannot open.
    """
    parser = configparser.ConfigParser()
    parser.read(path, encoding="utf-8")
    url = parser.get("metadata", "url", fallback="").strip().removesuffix("/").removesuffix(".git")
    if url and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise ValueError(f"url in {path} must be https://github.com/OWNER/NAME, got {url}")
    return url or None


def link(folder: Path, url: str | None, *, write: bool) -> list[str]:
    """The names of the notebooks that have another address; writes this address if asked to.

    Args:
      folder: the folder of the notebooks.
      url: the address, from `read_url`.
      write: whether to write the address into the notebooks.

    Raises:
      ValueError: a notebook has no badge or no install cell.
    """
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first, second = notebook["cells"][:2]
        before = json.dumps(notebook)
        try:
            first["source"] = _lines(_badge("".join(first["source"]), url, path.name))
            second["source"] = _lines(_install("".join(second["source"]), url))
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
        if json.dumps(notebook) != before:
            changed.append(path.name)
            if write:
                text = json.dumps(notebook, indent=1, ensure_ascii=False)
                files.write_text(path, text + "\n")
    return changed


def _badge(text: str, url: str | None, name: str) -> str:
    place = "" if url is None else f"{url.removeprefix('https://github.com/')}/blob/main/notebooks/"
    target = _COLAB + (place and place + name)
    text, count = re.subn(rf'href="{re.escape(_COLAB)}[^"]*"', f'href="{target}"', text, count=1)
    if not count:
        raise ValueError("has no badge of Colab in its first cell")
    text = text.replace(_NOTE, "")
    return text if url else text + _NOTE


def _install(text: str, url: str | None) -> str:
    named = f'os.environ.get("WISEALE_REPOSITORY", "{url or ""}")'
    pattern = r'os\.environ\.get\("WISEALE_REPOSITORY", "[^"]*"\)'
    text, count = re.subn(pattern, named, text)
    if not count:
        raise ValueError("has no REPOSITORY in its second cell")
    return re.sub(rf"(?m)^{re.escape(_WHAT)}.*$", _WHAT if url else _UNKNOWN, text)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    flags.DEFINE_bool("check", False, "write nothing, only name the notebooks with another address")
    cli.run(main)
