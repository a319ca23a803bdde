"""The model families that must train: each as a builder would write it, small, with the shape and type of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 40
STEPS = 9


class Convolutional(nn.Module):
    """Convolutions with GroupNorm, strides, groups and dilation, and each kind of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 5, stride=2, padding=2)
        self.norm = nn.GroupNorm(2, 4)
        self.depth = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4, bias=False)
        self.slopes = nn.PReLU(8)
        self.each = nn.InstanceNorm2d(8, affine=True)
        self.pool = nn.MaxPool2d(2, stride=1)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = functional.max_pool2d(torch.tanh(self.norm(self.first(x))), 2, 1)
        h = self.pool(self.each(self.slopes(self.depth(h))))
        return self.last(functional.adaptive_avg_pool2d(functional.avg_pool2d(h, 2), 1).flatten(1))


class TableAsImage(nn.Module):
    """Features of a table that are the pixels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(27, 3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.view(-1, 1, 8, 8))


class Block(nn.Module):
    """A block of ResNet-18 (He et al. 2015) with GroupNorm."""

    def __init__(self, narrow: int, wide: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, wide)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or narrow != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(narrow, wide, 1, stride, bias=False), nn.GroupNorm(groups, wide)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        h += x if self.downsample is None else self.downsample(x)
        return self.relu(h)


class ResNet18(nn.Module):
    """ResNet-18: 4 stages of 2 blocks; ``width`` is 64 in the paper."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        groups = max(1, width // 8)
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.norm1 = nn.GroupNorm(groups, width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        narrow = width
        for stage in range(4):
            wide = width << stage
            blocks += [Block(narrow, wide, 2 if stage else 1, groups), Block(wide, wide, 1, groups)]
            narrow = wide
        self.layers = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(narrow, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.maxpool(self.relu(self.norm1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layers(h)), 1))


class TextCnn(nn.Module):
    """Kim 2014: embedding, convolutions of several widths, the maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6, padding_idx=0)
        self.convolutions = nn.ModuleList([nn.Conv1d(6, 4, width) for width in (2, 3, 4)])
        self.out = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x).transpose(1, 2)
        parts = [
            functional.max_pool1d(functional.relu(convolution(h)), 6).amax(dim=2)
            for convolution in self.convolutions
        ]
        return self.out(torch.cat(parts, dim=1))


class Recurrent(nn.Module):
    """Tokens through an LSTM or GRU; the class from its output or its last state."""

    def __init__(self, kind: type[nn.RNNBase], last: bool, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.rnn = kind(5, 4, batch_first=True, **options)  # type: ignore[arg-type]
        self.last = last
        self.out = nn.Linear(4 if last else 4 * (2 if self.rnn.bidirectional else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, state = self.rnn(self.embedding(x))
        if self.last:
            return self.out((state[0] if isinstance(self.rnn, nn.LSTM) else state)[-1])
        return self.out(output.mean(dim=1))


class HandWritten(nn.Module):
    """A transformer written by hand, with learned positions, a class token, tied blocks and a padding mask."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(1, STEPS, width) * 0.1)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.scale = nn.Parameter(torch.ones(width))
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm, self.last = nn.LayerNorm(width), nn.RMSNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, 3)

    def block(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, steps, width = x.shape
        query, key, value = (
            self.qkv(self.norm(x)).view(batch, steps, 3, self.heads, width // self.heads).unbind(2)
        )
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(~mask[:, None, None, :], float("-1e9"))
        h = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, steps, width)
        x = x + self.mix(h)
        return x + self.down(functional.gelu(self.up(x * self.scale)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch = ids.shape[0]
        x = self.embedding(ids) + self.positions
        x = torch.cat([self.token.expand(batch, -1, -1), x], dim=1)
        mask = torch.cat([ids[:, :1] >= 0, ids != 0], dim=1)
        x = self.block(self.block(x, mask), mask)  # the same weights twice
        return self.out(self.last(x)[:, 0])


class Causal(nn.Module):
    """``scaled_dot_product_attention`` with the causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        parts = [
            part(x).view(x.size(0), STEPS, 2, 4).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        h = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.out(h.transpose(1, 2).flatten(2)[:, -1])


class TorchEncoder(nn.Module):
    """``nn.TransformerEncoder`` with a padding mask, and the mean over what is no padding."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.0, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        padding = ids == 0
        h = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        keep = (~padding).float().unsqueeze(-1)
        return self.out((h * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1.0))


class BertEmbeddings(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(16, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.0)
        self.register_buffer("position_ids", torch.arange(16).expand((1, -1)), persistent=False)
        self.register_buffer("token_type_ids", torch.zeros((1, 16), dtype=torch.long), persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        steps = input_ids.shape[1]
        position_ids = self.position_ids[:, :steps]
        token_type_ids = self.token_type_ids[:, :steps].expand(input_ids.shape[0], steps)
        h = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        h = h + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(h))


class BertSelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, width // heads
        self.query, self.key, self.value = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.dropout = nn.Dropout(0.0)

    def transpose_for_scores(self, x: torch.Tensor) -> torch.Tensor:
        return x.view((*x.size()[:-1], self.heads, self.head_size)).permute(0, 2, 1, 3)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        query = self.transpose_for_scores(self.query(hidden))
        key = self.transpose_for_scores(self.key(hidden))
        value = self.transpose_for_scores(self.value(hidden))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size)
        probabilities = self.dropout(functional.softmax(scores + attention_mask, dim=-1))
        context = torch.matmul(probabilities, value).permute(0, 2, 1, 3).contiguous()
        return context.view((*context.size()[:-2], self.heads * self.head_size))


class BertOutput(nn.Module):
    def __init__(self, narrow: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(narrow, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.0)

    def forward(self, hidden: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden)) + given)


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = BertSelfAttention(width, heads)
        self.attention_output = BertOutput(width, width)
        self.intermediate = nn.Linear(width, 2 * width)
        self.output = BertOutput(2 * width, width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        attended = self.attention_output(self.attention(hidden, mask), hidden)
        return self.output(functional.gelu(self.intermediate(attended)), attended)


class Bert(nn.Module):
    """``BertForSequenceClassification`` of Hugging Face's transformers in its structure: three embeddings, the extended
    attention mask that is added to the scores, the pooler, the classifier. The mask follows from the padding token."""

    def __init__(self, width: int = 8, heads: int = 2, layers: int = 2) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(width)
        self.layer = nn.ModuleList([BertLayer(width, heads) for _ in range(layers)])
        self.pooler = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(width, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        attention_mask = (input_ids != 0).long()
        hidden = self.embeddings(input_ids)
        extended = attention_mask[:, None, None, :].to(dtype=hidden.dtype)
        extended = (1.0 - extended) * torch.finfo(hidden.dtype).min
        for layer in self.layer:
            hidden = layer(hidden, extended)
        return self.classifier(self.dropout(torch.tanh(self.pooler(hidden[:, 0]))))


class Einsum(nn.Module):
    """A function without a proof of isolation, so that the trainer goes row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embedding(ids)
        scores = torch.einsum("bid,bjd->bij", h, h).softmax(dim=-1)
        return self.out(self.norm(torch.einsum("bij,bjd->bid", scores, h)).mean(dim=1))


class Volume(nn.Module):
    """A layer without a book-keeping rule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Twice(nn.Module):
    """Layers of each kind that are used several times."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.convolution = nn.Conv1d(4, 4, 3, padding=1)
        self.norm, self.group = nn.LayerNorm(4), nn.GroupNorm(2, 4)
        self.linear, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embedding(ids) + self.embedding((ids * 3).clamp(max=VOCABULARY - 1.0).long())
        h = self.norm(self.linear(torch.tanh(self.linear(self.norm(h))))).transpose(1, 2)
        h = self.group(self.convolution(torch.tanh(self.convolution(self.group(h)))))
        return self.out(torch.tanh(self.linear(h.mean(dim=2))))


class Tied(nn.Module):
    """Two layers that share a matrix, as a language model's table of words and its last layer do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.words = nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)
        self.words.weight = self.embedding.weight
        self.out = nn.Linear(VOCABULARY, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.words(self.embedding(ids).mean(dim=1))))


IMAGE, TOKENS = (1, 12, 12), (STEPS,)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "convolutional": (Convolutional, IMAGE, "float32"),
    "table as image": (TableAsImage, (64,), "float32"),
    "ResNet-18": (lambda: ResNet18(4, 3), (3, 24, 24), "float32"),
    "text CNN": (TextCnn, TOKENS, "int64"),
    "LSTM": (lambda: Recurrent(nn.LSTM, True), TOKENS, "int64"),
    "LSTM, two layers, both ways": (
        lambda: Recurrent(nn.LSTM, False, num_layers=2, bidirectional=True, bias=False),
        TOKENS,
        "int64",
    ),
    "LSTM, state of both ways": (lambda: Recurrent(nn.LSTM, True, bidirectional=True), TOKENS, "int64"),
    "GRU": (lambda: Recurrent(nn.GRU, True, num_layers=2), TOKENS, "int64"),
    "transformer by hand": (HandWritten, TOKENS, "int64"),
    "causal attention": (Causal, TOKENS, "int64"),
    "nn.TransformerEncoder": (lambda: TorchEncoder(False), TOKENS, "int64"),
    "nn.TransformerEncoder, norm first": (lambda: TorchEncoder(True), TOKENS, "int64"),
    "BERT": (Bert, TOKENS, "int64"),
    "layers used twice": (Twice, TOKENS, "int64"),
    "layers that share a matrix": (Tied, TOKENS, "int64"),
    "einsum": (Einsum, TOKENS, "int64"),
    "three-dimensional convolution": (Volume, (1, 3, 3, 3), "float32"),
}
"""By name: the model, the shape of a row, the type of its numbers."""


def rows(shape: tuple[int, ...], dtype: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of random numbers, or of tokens that end in padding; and labels of three classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    if dtype == "float32":
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64), labels
    tokens = torch.randint(1, VOCABULARY, (count, *shape), generator=generator)
    lengths = torch.randint(2, shape[-1] + 1, (count, 1), generator=generator)
    return tokens * (torch.arange(shape[-1]) < lengths), labels
