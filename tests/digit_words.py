"""Digits without recordings: tones for takes, a hash of the sound for states, and a small tokenizer in which a digit is a token."""

import hashlib

import numpy as np
import torch

from common.data.speech import DIGITS, Bank
from tests.small_tokenizers import CHATML

WIDTH = 8  # of what is heard in a token


def bank(split):
    """Two takes of each digit, by one speaker a split."""
    who = "test speaker" if split == "test" else "train speaker"
    takes = {(who, word): [np.sin(np.arange(1600 + 160 * take) * (0.1 + 0.05 * i)).astype(np.float32) for take in range(2)]
             for i, word in enumerate(DIGITS)}
    return Bank(f"tones, {split}", 8000, takes)


def states(spoken):
    """(tokens, WIDTH): of each 80 ms, which word sounds in them, as far as it has been heard; and a little that is their own."""
    tokens = -(-1000 * len(spoken.waveform) // (80 * spoken.rate))
    seed = int.from_bytes(hashlib.blake2b(spoken.waveform.tobytes(), digest_size=4).digest(), "big")
    found = 0.1 * torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
    for word, end in zip(spoken.words, spoken.word_ends):
        at = min(int(end // 80), tokens - 1)
        place = DIGITS.index(word)
        found[at, place % 4] += 2
        found[at, 4 + place // 4] += 2
    return found


def tokenizer(whole_words=True):
    """Byte-level, with chat turns as SmolLM2's has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in DIGITS if whole_words else ():
        piece = "Ġ"
        for letter in word:
            merges.append((piece, letter))
            piece += letter
            names.append(piece)
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    inner = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=special[0], eos_token=special[2], pad_token=special[0],
                                   additional_special_tokens=special[1:], chat_template=CHATML)
