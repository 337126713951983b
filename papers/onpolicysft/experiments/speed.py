"""What an update holds and costs: On-Policy SFT beside GRPO with a reference, random weights, real dimensions.

    make reproduce-onpolicysft RUNG=gpu            R1-Distill-Qwen-1.5B's dimensions, 3,500 and 8,192 tokens, one GPU
    python -m papers.onpolicysft.experiments.speed  SmolLM2-135M's dimensions, 512 tokens, peak resident memory on the CPU

Both update on the same responses, in micro-batches, fp32 weights and AdamW states with bfloat16 autocast on a GPU, layers
computed again in the backward pass. GRPO as the recipes of the paper's comparison have it: log-probabilities of the
sampling weights and of a frozen bfloat16 reference, without gradient, on every response, then the clipped loss with KL on
all; On-Policy SFT trains on the share that was kept. Memory is the peak over an update, everything held included.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common import shapes
from common.errors import UserError
from common.files import write_json
from common.models import ModelSpec, load
from common.reasoning.policy_gradient import ClippedLoss, grpo_loss
from common.timing.cases import in_a_process, pooled
from common.timing.clock import peak_rss_bytes, wait

from .. import method

R1_1P5B = shapes.R1_1P5B.config(max_position_embeddings=16384)
SMOLLM2_135M = shapes.SMOLLM2_135M.config(max_position_embeddings=8192)
KINDS = ("opsft", "grpo")
PROMPT, KEPT = 64, 0.5  # tokens of a prompt; share of the responses that pass the filter


def update(kind: str, config: dict, tokens: int, responses: int = 8, micro: int = 4, device: str = "cuda", repeats: int = 3) -> dict:
    """{"peak_bytes", "seconds", "forward_tokens"}: one value a repetition, after one that warms up."""
    if kind not in KINDS:
        raise ValueError(f"update {kind!r} is none of {', '.join(KINDS)}")
    cuda = device == "cuda"
    model = load(ModelSpec(name="random", config=config, dtype="float32", device=device)).model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    reference = copy.deepcopy(model).to(torch.bfloat16).eval().requires_grad_(False) if kind == "grpo" else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, config["vocab_size"], (responses, PROMPT + tokens), generator=draw)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, PROMPT:] = True
    kept = range(int(responses * KEPT)) if kind == "opsft" else range(responses)
    fed = [0]

    def log_probs(of, rows):
        fed[0] += rows.numel()
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            logits = of(input_ids=rows, use_cache=False, logits_to_keep=tokens + 1).logits
        return method.token_log_probs(logits, rows, where)

    took: dict[str, Any] = {"peak_bytes": [], "seconds": []}
    for number in range(repeats + 1):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        wait(device)
        began, fed[0] = time.perf_counter(), 0
        for start in range(0, len(kept), micro):
            rows = ids[start : start + micro].to(device)
            where = mask[start : start + micro].to(device)
            if kind == "opsft":
                loss = method.sft_loss(log_probs(model, rows), where, method.denominator([tokens] * len(kept), "max"))
            else:
                with torch.no_grad():
                    old, ref = log_probs(model, rows), log_probs(reference, rows)
                gains = torch.linspace(-1, 1, len(rows), device=device)
                loss = grpo_loss(log_probs(model, rows), old, gains, where, len(kept), ClippedLoss(beta=0.04), ref)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wait(device)
        if number:
            took["seconds"].append(time.perf_counter() - began)
            took["peak_bytes"].append(torch.cuda.max_memory_allocated() if cuda else peak_rss_bytes())
    return took | {"forward_tokens": fed[0]}


def measure(config: dict, lengths: Sequence[int], device: str, out: Path | None = None, log: Callable[[str], None] = print,
            processes: int = 1, **options) -> dict:
    """{"settings", "cases": {tokens: {kind: update's}}}, each in processes of its own; what is finished is read from `out`."""
    document = {"settings": {"config": config, "device": device, "processes": processes} | options, "cases": {}}
    for tokens in lengths:
        case = {}
        for kind in KINDS:
            runs = []
            for number in range(1, processes + 1):
                path = out / f"{kind}-{tokens}.{number}.json" if out else None
                if path is not None and path.is_file():
                    runs.append(json.loads(path.read_text()))
                    continue
                runs.append(in_a_process(update, kind, config, tokens, device=device, **options))
                if path is not None:
                    write_json(path, runs[-1])
            case[kind] = runs[0] if processes == 1 else pooled(runs)
            log(f"  {kind}, {tokens} tokens: {max(case[kind]['peak_bytes']) / 2**30:.2f} GiB, {min(case[kind]['seconds']):.2f} s an update")
        document["cases"][str(tokens)] = case
    return document


def measure_gpu(folder: Path | None = None, log: Callable[[str], None] = print, processes: int = 3) -> dict:
    """The gpu rung. Raises UserError without a GPU."""
    if not torch.cuda.is_available():
        raise UserError("no CUDA device: the rung gpu-random-weights updates a model of real size on one GPU with 80 GB; a smaller one on "
                        "the CPU: python -m papers.onpolicysft.experiments.speed")
    document = measure(R1_1P5B, (3500, 8192), "cuda", folder, log, processes)
    return document | document["cases"]["3500"]


def measure_cpu(log: Callable[[str], None] = print) -> dict:
    return measure(SMOLLM2_135M, (512,), "cpu", None, log, responses=4, micro=2, repeats=1)


def table(document: dict) -> str:
    rows = []
    for tokens, case in document["cases"].items():
        ours, theirs = (case[k] for k in KINDS)
        most, least = [max(k["peak_bytes"]) / 2**20 for k in (ours, theirs)], [min(k["seconds"]) for k in (ours, theirs)]
        rows.append(f"{tokens} tokens: peak {most[0]:.0f} MiB against {most[1]:.0f} of GRPO with reference "
                    f"({most[0] / most[1]:.2f}), {least[0]:.1f} s against {least[1]:.1f} "
                    f"({least[0] / least[1]:.2f}), {ours['forward_tokens']} tokens read against {theirs['forward_tokens']}")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    print(table(measure_cpu()))
