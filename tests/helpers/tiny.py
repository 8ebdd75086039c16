"""Tiny real models: a tokenizer of words or of bytes, and a LLaMA, Qwen2 or BERT with random weights.

```python
folder = save_model(tmp_path / "plain", "bert")                        # transformers, tokenizer and weights
Embedder.from_backbone(folder, query_length=12).save_pretrained(tmp_path / "model")
```
"""

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
TEXT = "how do i open a zip file read write list sort keys close the of in text bytes < > emb thought"
WORDS = TEXT.split(" ")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def word_tokenizer(words=WORDS, *, special=SPECIAL, lowercase=True):
    """A tokenizer of whole words and single signs; `special` maps transformers' names to special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*special.values(), *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def byte_tokenizer():
    """Like Qwen2's: bytes, no bos; pad and eos are one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet, end = sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"
    backend = Tokenizer(models.BPE({sign: number for number, sign in enumerate([*alphabet, end])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end)


def language_model(kind, vocabulary, **config):
    """A model of `kind` ("llama", "qwen2", "bert": an encoder used as a decoder) for so many tokens.

    The weights are the same in every run; `config` are fields of its transformers configuration.
    """
    import torch
    import transformers as hf

    settings = {"vocab_size": vocabulary, **SIZES, "initializer_range": 0.2, **config}
    torch.manual_seed(0)
    if kind == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**settings))
    if kind == "qwen2":
        return hf.Qwen2ForCausalLM(hf.Qwen2Config(**{"num_key_value_heads": 2, **settings}))
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return hf.BertLMHeadModel(hf.BertConfig(is_decoder=True, **without_dropout, **settings))


def save_model(folder, kind="llama", *, tokenizer=None, **config):
    """Write a tiny plain model and its tokenizer, as transformers does; returns the folder."""
    tokenizer = tokenizer or word_tokenizer()
    tokenizer.save_pretrained(folder)
    language_model(kind, len(tokenizer), **config).save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_chat_model(folder):
    """Write a tiny Qwen2 of bytes with a chat template; returns the folder."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return save_model(folder, "qwen2", tokenizer=tokenizer)


def save_sentence_model(folder, words, *, pooling="mean"):
    """Write a tiny sentence-transformers model with random weights that knows `words`; returns the folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, set_seed

    tokenizer = word_tokenizer(words)
    tokenizer.save_pretrained(folder / "bert")
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=16)
    model = SentenceTransformer(modules=[transformer, Pooling(16, pooling_mode=pooling)], device="cpu")
    model.save_pretrained(str(folder / "tiny-encoder"))
    return folder / "tiny-encoder"
