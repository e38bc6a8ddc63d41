"""A language model that is valid, tiny and knows nothing: random weights in a GGUF file.

The architecture is llama's (GGUF 3, 32-bit floats), the tokenizer SentencePiece's with a word list of a few
syllables and a token for each byte, so that any text can be read. The weights come from a fixed seed: the same file
each time. Bytes and control tokens have no weight at the way out, so that what it says is made of syllables.
"""

import random
import struct

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_F32 = 0
_ALIGNMENT = 32

_EMBEDDING, _HEADS, _LAYERS, _FORWARD, _CONTEXT = 64, 4, 2, 128, 2048
_SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu".split()
# Kinds of tokens.
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6

_TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def write(path):
    """Writes the model."""
    tokens = _tokens()
    tensors = _tensors(tokens)
    facts = _facts(tokens)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts))
    head += b"".join(_text(name) + _value(kind, value) for name, kind, value in facts)
    offset = 0
    for name, shape, data in tensors:
        head += _text(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, _F32, offset)
        offset += len(data) + -len(data) % _ALIGNMENT
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % _ALIGNMENT))
        for _, _, data in tensors:
            file.write(data + bytes(-len(data) % _ALIGNMENT))


def _tokens():
    """Text, score and kind of each token."""
    tokens = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    tokens += [("<0x%02X>" % byte, 0.0, _BYTE) for byte in range(256)]
    words = _SYLLABLES + ["\u2581" + syllable for syllable in _SYLLABLES]
    letters = ["\u2581"] + [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    tokens += [(text, -1.0 * place, _NORMAL) for place, text in enumerate(words + letters)]
    return tokens


def _facts(tokens):
    return [
        ("general.architecture", _STRING, "llama"),
        ("general.name", _STRING, "tiny random model"),
        ("general.file_type", _UINT32, 0),
        ("llama.context_length", _UINT32, _CONTEXT),
        ("llama.embedding_length", _UINT32, _EMBEDDING),
        ("llama.block_count", _UINT32, _LAYERS),
        ("llama.feed_forward_length", _UINT32, _FORWARD),
        ("llama.rope.dimension_count", _UINT32, _EMBEDDING // _HEADS),
        ("llama.attention.head_count", _UINT32, _HEADS),
        ("llama.attention.head_count_kv", _UINT32, _HEADS),
        ("llama.attention.layer_norm_rms_epsilon", _FLOAT32, 1e-5),
        ("llama.vocab_size", _UINT32, len(tokens)),
        ("tokenizer.ggml.model", _STRING, "llama"),
        ("tokenizer.ggml.tokens", _ARRAY, (_STRING, [text for text, _, _ in tokens])),
        ("tokenizer.ggml.scores", _ARRAY, (_FLOAT32, [score for _, score, _ in tokens])),
        ("tokenizer.ggml.token_type", _ARRAY, (_INT32, [kind for _, _, kind in tokens])),
        ("tokenizer.ggml.unknown_token_id", _UINT32, 0),
        ("tokenizer.ggml.bos_token_id", _UINT32, 1),
        ("tokenizer.ggml.eos_token_id", _UINT32, 2),
        ("tokenizer.ggml.add_bos_token", _BOOL, True),
        ("tokenizer.chat_template", _STRING, _TEMPLATE),
    ]


def _tensors(tokens):
    """Name, shape and data. The first dimension is the one whose numbers lie side by side."""
    luck = random.Random(20260102)

    def some(count, spread):
        return struct.pack("<%df" % count, *(luck.gauss(0.0, spread) for _ in range(count)))

    def ones(count):
        return struct.pack("<%df" % count, *([1.0] * count))

    def matrix(name, wide, high):
        return name, (wide, high), some(wide * high, wide**-0.5)

    said = b"".join(some(_EMBEDDING, 1.0 if kind == _NORMAL else 0.0) for _, _, kind in tokens)
    tensors = [
        matrix("token_embd.weight", _EMBEDDING, len(tokens)),
        ("output_norm.weight", (_EMBEDDING,), ones(_EMBEDDING)),
        ("output.weight", (_EMBEDDING, len(tokens)), said),
    ]
    for layer in range(_LAYERS):
        block = "blk.%d." % layer
        for part in ("attn_norm", "ffn_norm"):
            tensors.append((block + part + ".weight", (_EMBEDDING,), ones(_EMBEDDING)))
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.append(matrix(block + part + ".weight", _EMBEDDING, _EMBEDDING))
        for part in ("ffn_gate", "ffn_up"):
            tensors.append(matrix(block + part + ".weight", _EMBEDDING, _FORWARD))
        tensors.append(matrix(block + "ffn_down.weight", _FORWARD, _EMBEDDING))
    return tensors


def _value(kind, value):
    return struct.pack("<I", kind) + _bare(kind, value)


def _bare(kind, value):
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_bare(inner, item) for item in items)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)


def _text(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
