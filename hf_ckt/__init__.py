# SPDX-License-Identifier: Apache-2.0
"""
Contrastive knowledge transfer and robust alignment on top of TRL's `SFTTrainer`.

The public names are loaded at their first use: `import hf_ckt` alone takes milliseconds and imports no torch, so the
command line answers at once and a tool that only asks for the version does not pay for a deep learning framework.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .models.library_messages import leave_out

if TYPE_CHECKING:
    from .evaluation.callback import SafetyEvalCallback
    from .kernels import LinearHead, chunked_token_losses
    from .training.config import ContrastiveRobustConfig
    from .training.history_plot import plot_history
    from .training.progress import LineProgressCallback
    from .training.trainer import ContrastiveRobustTrainer

__version__ = "0.1.0"

leave_out()

# public name -> module that defines it
_HOMES = {
    "ContrastiveRobustConfig": ".training.config",
    "ContrastiveRobustTrainer": ".training.trainer",
    "LineProgressCallback": ".training.progress",
    "LinearHead": ".kernels",
    "SafetyEvalCallback": ".evaluation.callback",
    "chunked_token_losses": ".kernels",
    "plot_history": ".training.history_plot",
}

__all__ = [
    "ContrastiveRobustConfig",
    "ContrastiveRobustTrainer",
    "LineProgressCallback",
    "LinearHead",
    "SafetyEvalCallback",
    "__version__",
    "chunked_token_losses",
    "plot_history",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value  # later uses do not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
