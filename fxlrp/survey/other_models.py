"""Models of other packages and of other kinds: graphs, detection, segmentation, audio, tables, experts, operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp.extras import import_torchvision, require
from fxlrp.survey.case import Case
from fxlrp.survey.table_network import TableNetwork


class _OfEdges(nn.Module):
    """A graph network for a fixed graph, so that only the features of the nodes are explained."""

    def __init__(self, network: nn.Module, edges: Tensor) -> None:
        super().__init__()
        self.network = network
        self.edges = nn.Buffer(edges)

    def forward(self, x: Tensor) -> Any:
        return self.network(x, self.edges)


def _graph(name: str) -> Case:
    networks = require("torch_geometric", "survey").nn.models
    network = getattr(networks, name)(in_channels=8, hidden_channels=16, num_layers=2, out_channels=3)
    ring = torch.arange(10)
    edges = torch.stack([torch.cat([ring, ring.roll(1)]), torch.cat([ring.roll(1), ring])])
    return Case(_OfEdges(network, edges).eval(), torch.randn(10, 8))


class _Detector(nn.Module):
    """The scores of a detector before boxes are selected."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        boxes, raw = self.network(x)
        # The transformer returns chosen boxes with the numbers of their classes: its scores are explained instead.
        return raw[1][-1] if isinstance(raw, tuple) else boxes


def _ultralytics(name: str) -> Case:
    import_torchvision()
    tasks = require("ultralytics.nn.tasks", "survey")
    build = tasks.RTDETRDetectionModel if name.startswith("rtdetr") else tasks.DetectionModel
    network = build(f"{name}.yaml", verbose=False)
    return Case(_Detector(network).eval(), torch.rand(1, 3, 64, 64) if "yolo" in name else torch.rand(1, 3, 128, 128))


def _segmentation(name: str) -> Case:
    import_torchvision()
    library = require("segmentation_models_pytorch", "survey")
    encoder = "mit_b0" if name == "Segformer" else "resnet18"
    model = getattr(library, name)(encoder_name=encoder, encoder_weights=None, classes=3)
    return Case(model.eval(), torch.rand(2, 3, 64, 64))


def _monai(name: str) -> Case:
    networks = require("monai.networks.nets", "survey")
    if name == "UNet":
        model = networks.UNet(2, 1, 3, channels=(8, 16, 32), strides=(2, 2), num_res_units=2)
        return Case(model.eval(), torch.rand(2, 1, 32, 32))
    model = networks.SwinUNETR(in_channels=1, out_channels=3, feature_size=12, spatial_dims=2)
    return Case(model.eval(), torch.rand(1, 1, 64, 64))


_EXPERTS: Mapping[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12)
_LANGUAGE: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": dict(**_EXPERTS, head_dim=4),
    "deepseek_v3": dict(
        num_key_value_heads=4,
        moe_intermediate_size=12,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        v_head_dim=4,
        qk_nope_head_dim=4,
    ),
    "gpt_oss": dict(num_local_experts=4, num_experts_per_tok=2, head_dim=4),
    "jamba": dict(
        num_hidden_layers=4,
        num_experts=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=4,
        mamba_d_conv=2,
        mamba_expand=2,
        mamba_dt_rank=4,
    ),
    "mamba2": dict(num_heads=4, head_dim=8, state_size=4, n_groups=1, expand=2, chunk_size=4),
}


def _language(name: str) -> Case:
    """A causal language model as it is made, with its default cache."""
    import_torchvision()
    library = require("transformers", "survey")
    small = dict(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = library.AutoConfig.for_model(name, **{**small, **_LANGUAGE[name]})
    model = library.AutoModelForCausalLM.from_config(config).eval()
    return Case(model, {"input_ids": torch.randint(3, 32, (2, 7))}, {"output": "logits"})


class SpatialTransformer(nn.Module):
    """A network that transforms its image before it classifies it."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.where = nn.Sequential(
            nn.Conv2d(1, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 6)
        )
        self.what = nn.Sequential(
            nn.Conv2d(1, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 3)
        )

    def forward(self, x: Tensor) -> Any:
        """Classify images."""
        grid = F.affine_grid(self.where(x).view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.what(F.grid_sample(x, grid, align_corners=False))


class _SpectralConvolution(nn.Module):
    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, modes, 2) / width)
        self.modes = modes

    def forward(self, x: Tensor) -> Any:
        spectrum = torch.fft.rfft(x)
        kept = torch.einsum("bim,iom->bom", spectrum[..., : self.modes], torch.view_as_complex(self.weight))
        full = torch.zeros_like(spectrum)
        full[..., : self.modes] = kept
        return torch.fft.irfft(full, n=x.size(-1))


class FourierOperator(nn.Module):
    """A Fourier neural operator in one dimension."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.lift, self.project = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 1, 1)
        self.spectral = nn.ModuleList(_SpectralConvolution(8, 5) for _ in range(2))
        self.local = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        """Map a function of one variable to another."""
        x = self.lift(x)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            x = F.gelu(spectral(x) + local(x))
        return self.project(x).flatten(1)


class MelClassifier(nn.Module):
    """A convolutional network on the logarithm of a mel spectrogram."""

    def __init__(self) -> None:
        """Create the layers and a bank of triangular filters."""
        super().__init__()
        places, centers = torch.arange(33.0), torch.linspace(0, 32, 10)
        self.window = nn.Buffer(torch.hann_window(64))
        self.filters = nn.Buffer((1 - (places[:, None] - centers).abs() / 4).clamp_min(0))
        self.network = nn.Sequential(
            nn.Conv1d(10, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)
        )

    def forward(self, wave: Tensor) -> Any:
        """Classify waves of shape ``(batch, samples)``."""
        spectrum = torch.stft(wave, 64, 16, window=self.window, return_complex=True).abs().square()
        mel = spectrum.transpose(1, 2) @ self.filters
        return self.network((mel + 1e-3).log().transpose(1, 2))


class ClickModel(nn.Module):
    """A recommendation model of numbers and bags of categories (DLRM)."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, mode="sum") for _ in range(3))
        self.bottom, self.top = nn.Linear(4, 8), nn.Linear(8 + 6, 2)

    def forward(self, numbers: Tensor, categories: Tensor) -> Any:
        """Score ``(batch, 4)`` numbers and ``(batch, 3, count)`` categories."""
        dense = F.relu(self.bottom(numbers))
        vectors = torch.stack([dense, *(bag(categories[:, index]) for index, bag in enumerate(self.bags))], 1)
        products = vectors @ vectors.transpose(1, 2)
        rows, columns = torch.tril_indices(4, 4, -1)
        return self.top(torch.cat([dense, products[:, rows, columns]], 1))


class FactorizationMachine(nn.Module):
    """A factorization machine with a deep part (DeepFM)."""

    def __init__(self) -> None:
        """Create the layers and the offset of each field in the table."""
        super().__init__()
        self.offsets = nn.Buffer(torch.tensor([0, 10, 30]))
        self.linear, self.factors = nn.EmbeddingBag(40, 1, mode="sum"), nn.Embedding(40, 8)
        self.deep = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, fields: Tensor) -> Any:
        """Score categories of three fields, of shape ``(batch, 3)``."""
        fields = fields + self.offsets
        vectors = self.factors(fields)
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1, keepdim=True)
        return self.linear(fields) + pairs + self.deep(vectors.flatten(1))


class TableTransformer(nn.Module):
    """A transformer of categories beside numbers (TabTransformer)."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.categories = nn.Embedding(30, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(5), nn.Sequential(nn.Linear(4 * 16 + 5, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, categories: Tensor, numbers: Tensor) -> Any:
        """Score ``(batch, 4)`` categories and ``(batch, 5)`` numbers."""
        encoded = self.encoder(self.categories(categories.long())).flatten(1)
        return self.head(torch.cat([encoded, self.norm(numbers)], 1))


class Translator(nn.Module):
    """``nn.Transformer`` with a causal mask for the target."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.tokens, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)
        self.transformer = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)

    def forward(self, source: Tensor, shifted: Tensor) -> Any:
        """Score the next token at every position of the target."""
        mask = nn.Transformer.generate_square_subsequent_mask(shifted.size(1), dtype=self.head.weight.dtype)
        return self.head(self.transformer(self.tokens(source), self.tokens(shifted), tgt_mask=mask))


class PackedRecurrent(nn.Module):
    """An LSTM over sequences of different lengths."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        """Classify two sequences, the second of which has two steps less."""
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4]), batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


class ConvolutionModule(nn.Module):
    """Attention and a gated convolution over frames, with a mask of their lengths (Conformer)."""

    def __init__(self) -> None:
        """Create the layers."""
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.expand, self.depthwise, self.contract = (
            nn.Conv1d(16, 32, 1),
            nn.Conv1d(16, 16, 3, padding=1, groups=16),
            nn.Conv1d(16, 16, 1),
        )
        self.norms, self.batch_norm = nn.ModuleList(nn.LayerNorm(16) for _ in range(2)), nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        """Classify frames of shape ``(batch, frames, 16)`` with their lengths."""
        padding = torch.arange(x.size(1), device=x.device)[None] >= lengths[:, None]
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        y = F.glu(self.expand(self.norms[1](x).transpose(1, 2).masked_fill(padding[:, None], 0.0)), 1)
        x = x + self.contract(F.silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)
        return self.head((x * ~padding[..., None]).sum(1) / lengths[:, None])


_WRITTEN: Mapping[str, Callable[[], Case]] = {
    "spatial_transformer": lambda: Case(SpatialTransformer().eval(), torch.rand(2, 1, 20, 20)),
    "fourier_operator": lambda: Case(FourierOperator().eval(), torch.randn(2, 1, 32)),
    "mel_classifier": lambda: Case(MelClassifier().eval(), torch.randn(2, 400)),
    "dlrm": lambda: Case(
        ClickModel().eval(), {"numbers": torch.randn(2, 4), "categories": torch.randint(0, 20, (2, 3, 5))}
    ),
    "deep_fm": lambda: Case(FactorizationMachine().eval(), {"fields": torch.randint(0, 10, (2, 3))}),
    "tab_transformer": lambda: Case(
        TableTransformer().eval(), {"categories": torch.randint(0, 30, (2, 4)), "numbers": torch.randn(2, 5)}
    ),
    "tabnet": lambda: Case(TableNetwork().eval(), torch.randn(4, 6)),
    "nn_transformer": lambda: Case(
        Translator().eval(), {"source": torch.randint(0, 30, (2, 6)), "shifted": torch.randint(0, 30, (2, 5))}
    ),
    "packed_lstm": lambda: Case(PackedRecurrent().eval(), torch.randn(2, 6, 4)),
    "conformer": lambda: Case(
        ConvolutionModule().eval(), {"x": torch.randn(2, 8, 16), "lengths": torch.tensor([8, 5])}
    ),
}
_PACKAGES: Mapping[str, tuple[tuple[str, ...], Callable[[str], Case]]] = {
    "torch_geometric": (("GCN", "GAT", "GraphSAGE", "GIN"), _graph),
    "ultralytics": (("yolov8n", "rtdetr-resnet50"), _ultralytics),
    "segmentation_models_pytorch": (("Unet", "FPN", "DeepLabV3Plus", "Segformer"), _segmentation),
    "monai": (("UNet", "SwinUNETR"), _monai),
    "transformers": (tuple(_LANGUAGE), _language),
}

NAMES = (*_WRITTEN, *(f"{package}/{name}" for package, (names, _) in _PACKAGES.items() for name in names))


def make(name: str) -> Case:
    """Return a model by one of :data:`NAMES`."""
    package, _, model = name.rpartition("/")
    return _PACKAGES[package][1](model) if package else _WRITTEN[model]()
