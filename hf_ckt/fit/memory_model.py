# SPDX-License-Identifier: Apache-2.0
"""
What a training step with all terms holds in a card's memory, part by part, in bytes.

Batch of one row; LoRA on all linear layers, AdamW, gradient checkpointing, the student's base as teacher, the two views
through the backbone one after the other; a Llama-like layer of transformers 5.23 with fused attention, computing in
bfloat16. What is saved for the backward is read off that code and held by a test; what is stated as an assumption is
not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..kernels.tile_program import tile_sizes
from .shapes import ModelShape

# Assumption: the CUDA context, the libraries' own buffers and what the allocator loses to fragmentation.
CONTEXT_BYTES = 1.0e9
# Temporaries of the elementwise work on a block of a tile, in float32 blocks of logits: the default losses over bfloat16
# buffers, without a compiler, which needs fewer.
BLOCK_TEMPORARIES = 11
# Anchors of the contrastive term: the default of contrastive_max_anchors.
ANCHORS = 1024
_HALF, _FULL = 2, 4
GRANULE = 64

FORMULA = """\
memory   = weights + adapter + context + checkpoints + states + max(layer, objective)
weights  = linear parameters * bytes + 2 (embedding + head + norms)     bytes: bf16 2, int8 1 + 4/inputs,
           nf4 1/2 + 1/64 + 4/(64 * 256), its scales quantized once more
adapter  = rank * (inputs + outputs) of each linear map, * 4 copies (weight, gradient, two AdamW moments), in float32
           over bf16 (and cast once to 2 bytes for autocast); TRL makes it bfloat16 over a quantized backbone
context  = 1 GB, assumed
checkpoints = views * layers * tokens * 2 D          views: clean and noisy; one with noisy_view_recompute
states   = tokens * 28 D + 4 D tokens of noise       last hidden states of three views, gradients of two
layer    = tokens * (saved for one layer's backward + its gradients, assumed) + its largest weight, dequantized
objective = V * (tile rows * 3 * 2 + block rows * 11 * 4) + 3 Gram matrices 4 D^2 + similarities"""


@dataclass(frozen=True)
class FitCase:
    """
    What is trained.

    Args:
        shape ([`~fit.shapes.ModelShape`]):
            The model.
        precision (`str`):
            Of the backbone's linear maps: `bf16`, `int8` or `nf4` (double quantization).
        rank (`int`):
            Of the adapter.
        recompute (`bool`):
            `noisy_view_recompute`.
    """

    shape: ModelShape
    precision: str
    rank: int = 16
    recompute: bool = False

    @property
    def quantized(self) -> bool:
        """Whether the backbone is stored in less than it computes in."""
        return self.precision in ("int8", "nf4")


def linear_weight_bytes(case: FitCase) -> float:
    """Bytes of the layers' linear maps with their quantization constants."""
    if case.precision == "nf4":
        # A scale per block of 64, quantized to a byte; of those, a float32 scale per block of 256.
        return case.shape.linear_parameters * (0.5 + 1 / 64 + _FULL / (64 * 256))
    if case.precision == "int8":
        scales = sum(outputs for _, outputs in case.shape.linear_sizes)  # float32, one a row
        return case.shape.linear_parameters + case.shape.layers * scales * _FULL
    return case.shape.linear_parameters * _HALF


def other_weight_bytes(case: FitCase) -> float:
    """Bytes of embedding, head and norms, which are never quantized: bfloat16."""
    return (case.shape.embedding_parameters + case.shape.norm_parameters) * _HALF


def adapter_parameters(case: FitCase) -> int:
    """Number of parameters that train."""
    return case.shape.layers * sum(case.rank * (inputs + outputs) for inputs, outputs in case.shape.linear_sizes)


def adapter_bytes(case: FitCase) -> float:
    """
    Bytes of the adapter, its gradients and AdamW's two moments.

    float32 over a bf16 backbone, where autocast keeps a copy in bfloat16; over a quantized one trl 1.16 casts the
    adapter, and with it gradients and moments, to bfloat16.
    """
    return adapter_parameters(case) * (4 * _HALF if case.quantized else 4 * _FULL + _HALF)


def layer_saved_bytes(case: FitCase, width: int = _HALF, *, autocast_adapter: bool | None = None) -> float:
    """
    Bytes per token that one layer saves for its backward when it is not checkpointed, or while it is recomputed.

    Args:
        case ([`FitCase`]):
            What is trained.
        width (`int`):
            Bytes of an activation: 2, or 4 to compute in float32.
        autocast_adapter (`bool`, *optional*):
            Whether a float32 adapter is multiplied under autocast. Each adapter then saves a cast copy of its input,
            which adapters of the same dtype share. By default where the backbone is bf16.
    """
    shape = case.shape
    autocast_adapter = not case.quantized and width == _HALF if autocast_adapter is None else autocast_adapter
    query, key = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    norms = 2 * (shape.hidden + 1) * _FULL  # inputs in float32, and a root a token
    attention = (2 * query + 2 * key) * width + shape.heads * _FULL  # query, output, key, value; log-sums in float32
    feed_forward = 3 * shape.intermediate * width  # gate, silu(gate), up
    # Inputs of the adapters, and what their first halves give.
    inputs = (5 * shape.hidden + query if autocast_adapter else 2 * shape.hidden) + shape.intermediate
    return norms + attention + feed_forward + (inputs + 7 * case.rank) * width


def saved_bytes(case: FitCase, tokens: int, *, checkpointing: bool, width: int = _HALF) -> float:
    """Bytes that one view's pass through the backbone saves for its backward, the last norm included."""
    shape = case.shape
    last_norm = (shape.hidden + 1) * _FULL
    if checkpointing:
        return tokens * (shape.layers * shape.hidden * width + last_norm)
    rotary = 2 * shape.head_size * width  # cosines and sines, which all layers share
    return tokens * (shape.layers * layer_saved_bytes(case, width) + last_norm + rotary)


def checkpoint_bytes(case: FitCase, tokens: int) -> float:
    """Bytes of the layers' inputs, by which they are recomputed, of the views that are held at the same time."""
    return (1 if case.recompute else 2) * case.shape.layers * case.shape.hidden * tokens * _HALF


def state_bytes(case: FitCase, tokens: int) -> float:
    """
    Bytes of the last hidden states and of the noise.

    Clean and noisy: the last norm's float32 input, its output, the kept positions, their float32 gradient. Teacher:
    output and kept positions. Noise: float32.
    """
    students = 2 * (_FULL + _HALF + _HALF + _FULL)
    return tokens * case.shape.hidden * (students + 2 * _HALF + _FULL)


def layer_bytes(case: FitCase, tokens: int) -> float:
    """
    Bytes while one layer is recomputed and differentiated.

    Assumption: of the gradients, as much as its three intermediate tensors, queries, keys, values and two float32
    hidden states live at once; int8 adds a product in int32.
    """
    shape = case.shape
    widest = 3 * shape.intermediate + 2 * (shape.heads + shape.key_value_heads) * shape.head_size
    gradients = widest * _HALF + 2 * shape.hidden * _FULL
    product = max(shape.intermediate, shape.hidden) * _FULL if case.precision == "int8" else 0
    largest = max(inputs * outputs for inputs, outputs in shape.linear_sizes)
    dequantized = largest * _HALF if case.quantized else 0
    return tokens * (layer_saved_bytes(case) + gradients + product) + dequantized


def tile_bytes(case: FitCase, tokens: int) -> float:
    """Bytes of the objective's tile: projections of three views in bfloat16, and a block's temporaries in float32."""
    sizes = tile_sizes(tokens, case.shape.vocab, torch.device("cuda"))
    return case.shape.vocab * (sizes.capacity * 3 * _HALF + sizes.block * BLOCK_TEMPORARIES * _FULL)


def contrast_bytes(case: FitCase, tokens: int) -> float:
    """Bytes of three Gram matrices of the head, and of float32 states and similarities of the anchors."""
    anchors = min(tokens, ANCHORS)
    similarities = 5 * anchors**2  # student-teacher, teacher-teacher, masked logits, their softmax, its gradient
    return (3 * case.shape.hidden**2 + 3 * anchors * case.shape.hidden + similarities) * _FULL


# In the order of FORMULA; the last two do not live at the same time.
_HELD: dict[str, Callable[[FitCase, int], float]] = {
    "linear weights": lambda case, tokens: linear_weight_bytes(case),
    "embedding, head, norms": lambda case, tokens: other_weight_bytes(case),
    "adapter, gradients, AdamW": lambda case, tokens: adapter_bytes(case),
    "context": lambda case, tokens: CONTEXT_BYTES,
    "checkpoints": checkpoint_bytes,
    "states": state_bytes,
}
_PHASES: dict[str, Callable[[FitCase, int], float]] = {
    "one layer": layer_bytes,
    "objective": lambda case, tokens: tile_bytes(case, tokens) + contrast_bytes(case, tokens),
}


def parts(case: FitCase, tokens: int) -> dict[str, float]:
    """Returns bytes by part; of the last two, `one layer` and `objective`, only the larger counts at the peak."""
    return {name: size(case, tokens) for name, size in (_HELD | _PHASES).items()}


def peak_bytes(case: FitCase, tokens: int) -> float:
    """Returns the step's peak."""
    held, phases = ([size(case, tokens) for size in group.values()] for group in (_HELD, _PHASES))
    return sum(held) + max(phases)


def longest(case: FitCase, memory: float) -> int:
    """Returns how many tokens fit, in whole steps of 64; 0 when not even the first do."""
    low, high = 0, 2**24 // GRANULE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if peak_bytes(case, middle * GRANULE) <= memory else (low, middle - 1)
    return low * GRANULE
