"""Tokenizers in the small that mark blanks and turns as those of Qwen, Llama, Gemma and Phi do, and a little English and French."""

from __future__ import annotations

ENGLISH = ["the cat sat on the mat", "we  see a small black dog , and we are glad", "thank you", "it is not the same house",
           "you have to see the small house again", "the dog and the cat", "we are glad to see you", "a black cat is not small"]
FRENCH = ["le chat est sur le tapis", "nous voyons un petit chien noir , et nous sommes contents", "merci",
          "ce n'est pas la même maison", "il faut revoir la petite maison", "le chien et le chat",
          "nous sommes contents de vous voir", "un chat noir n'est pas petit"]

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
         "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}")
PHI = ("{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
       "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")
LLAMA3 = ("{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
          "{% if m['role'] == 'system' %}{{ 'Today Date: 26 Jul 2024\n\n' }}{% endif %}{{ m['content'] | trim + '<|eot_id|>' }}"
          "{% endfor %}")
# family -> (how blanks are marked, chat template, special tokens: begin, end of text, those of turns)
TOKENIZERS = {
    "qwen2": ("Ġ", CHATML, ["<|endoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "llama": ("Ġ", LLAMA3, ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]),
    "gemma2": ("▁", GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]),
    "phi3": ("▁ in front", PHI, ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
}


def tokenizer(family="qwen2", chat=True):
    """A BPE of some 300 pieces that treats blanks and turns as that family's tokenizer does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    blanks, template, special = TOKENIZERS[family]
    inner = Tokenizer(models.BPE())
    if blanks == "Ġ":
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if blanks != "▁" else "never")
        alphabet = sorted(set("".join(ENGLISH + FRENCH)) | {chr(i) for i in range(33, 127)} | {"\n", "▁"})
    inner.train_from_iterator(ENGLISH + FRENCH, trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=alphabet, special_tokens=sorted(set(special)), show_progress=False))
    if blanks != "Ġ":
        steps = [normalizers.Prepend("▁")] if blanks != "▁" else []
        inner.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
        inner.pre_tokenizer = None  # as these families have it; the pieces learned lie within words
        inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if family == "phi3":  # its turn markers swallow the newline behind them
        inner.add_special_tokens([AddedToken(token, special=True, rstrip=True) for token in special[2:]])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=special[0], eos_token=special[1], pad_token=special[1],
                                   additional_special_tokens=special[2:], chat_template=template if chat else None)


def byte_words(template="{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"):
    """A tokenizer of single bytes with a chat template: <s> 0, <e> 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<s>", "<e>", *letters])}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<e>", pad_token="<e>")
    words.chat_template = template
    return words
