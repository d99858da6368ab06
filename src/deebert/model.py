"""DeeBERT: a frozen backbone with a ramp after every layer but the last, whose place the backbone's own head takes.

Shapes: B samples, T tokens, H width, L layers, C classes. Ramps 1..L-1 and the head make L heads.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.masking_utils import create_bidirectional_mask

from deebert.base.devices import pick_device
from deebert.base.errors import UserError, one_line
from deebert.data.batches import batches_by_length
from deebert.data.encoded import Encoded
from deebert.encoders.backbones import family_of, load_classifier

WEIGHTS = "model.safetensors"
RAMPS = "ramps.safetensors"


class Ramps(nn.Module):
    """The L-1 off-ramps, stored as one tensor per kind so that all of them train in one batched product.

    A ramp is the paper's (Xin et al., section 3.1): dense, tanh, linear on the first token's state. Row i of each
    tensor belongs to the ramp after layer i+1.
    """

    def __init__(self, num_ramps: int, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.dense_weight = nn.Parameter(torch.empty(num_ramps, hidden_size, hidden_size))  # (L-1, out, in)
        self.dense_bias = nn.Parameter(torch.zeros(num_ramps, hidden_size))
        self.out_weight = nn.Parameter(torch.empty(num_ramps, num_labels, hidden_size))
        self.out_bias = nn.Parameter(torch.zeros(num_ramps, num_labels))
        bound = hidden_size**-0.5  # as nn.Linear starts
        nn.init.uniform_(self.dense_weight, -bound, bound)
        nn.init.uniform_(self.out_weight, -bound, bound)

    def __len__(self) -> int:
        return len(self.dense_weight)

    def forward(self, states: Tensor, dropout: float = 0.0) -> Tensor:
        """Logits (L-1, B, C) of all ramps from first-token states (L-1, B, H), one slice per ramp."""
        pooled = torch.baddbmm(self.dense_bias[:, None], states, self.dense_weight.mT).tanh()
        pooled = nn.functional.dropout(pooled, dropout, training=self.training)
        return torch.baddbmm(self.out_bias[:, None], pooled, self.out_weight.mT)

    def ramp(self, layer: int, states: Tensor) -> Tensor:
        """Logits (B, C) of the ramp after `layer` (1..L-1) from its first-token states (B, H)."""
        i = layer - 1
        pooled = nn.functional.linear(states, self.dense_weight[i], self.dense_bias[i]).tanh()
        return nn.functional.linear(pooled, self.out_weight[i], self.out_bias[i])


def walk(backbone: PreTrainedModel, inputs: dict[str, Tensor]) -> Iterator[Tensor]:
    """Yield the hidden states (B, T, H) after layer 1, 2, ..., L; stop asking and the deeper layers never run.

    Args:
        inputs: `input_ids`, `attention_mask` (1 = token, 0 = padding) and, where the family has them,
            `token_type_ids`, each (B, T).
    """
    family = family_of(backbone)
    embedding_inputs = {"input_ids": inputs["input_ids"]}
    if family.token_types and "token_type_ids" in inputs:
        embedding_inputs["token_type_ids"] = inputs["token_type_ids"]
    hidden = backbone.base_model.embeddings(**embedding_inputs)
    mask = create_bidirectional_mask(
        config=backbone.config, inputs_embeds=hidden, attention_mask=inputs["attention_mask"]
    )
    for layer in family.layers(backbone):
        hidden = layer(hidden, mask)
        yield hidden


class DeeBert(nn.Module):
    """A classifier of the supported families with its ramps."""

    def __init__(self, backbone: PreTrainedModel, ramps: Ramps) -> None:
        super().__init__()
        assert len(ramps) == backbone.config.num_hidden_layers - 1
        self.backbone = backbone
        self.ramps = ramps

    @property
    def num_layers(self) -> int:
        return self.backbone.config.num_hidden_layers

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits (B, L, C) of every head in float32; inputs as for `walk`."""
        logits = []
        for layer, hidden in enumerate(walk(self.backbone, inputs), start=1):
            first_token = hidden[:, 0]  # (B, H)
            if layer < self.num_layers:
                logits.append(self.ramps.ramp(layer, first_token))
            else:
                logits.append(family_of(self.backbone).head(self.backbone, first_token))
        return torch.stack(logits, dim=1).float()

    @classmethod
    def load(cls, folder: Path) -> tuple["DeeBert", PreTrainedTokenizerBase]:
        """Load `folder` as written by `save`, in eval mode and float32.

        Raises:
            UserError: files are missing, damaged or do not belong together.
        """
        backbone, tokenizer = load_classifier(folder)
        config = backbone.config
        ramps = Ramps(config.num_hidden_layers - 1, config.hidden_size, config.num_labels)
        try:
            ramps.load_state_dict(load_file(folder / RAMPS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / RAMPS}: cannot be loaded: {one_line(error)}; `dvc repro` makes it") from None
        return cls(backbone, ramps).eval(), tokenizer


def save(backbone_folder: Path, ramps: Ramps, folder: Path) -> None:
    """Write a self-contained model: the backbone's files byte for byte, and `ramps.safetensors` beside them.

    The copy is exact so that DVC's cache holds the weights once, and proof that training ramps left them alone.
    """
    for file in sorted(backbone_folder.iterdir()):
        shutil.copyfile(file, folder / file.name)
    save_ramps(ramps, folder)


def save_ramps(ramps: Ramps, folder: Path) -> None:
    """Write `ramps.safetensors` into `folder`, which exists."""
    save_file({name: tensor.detach().contiguous() for name, tensor in ramps.state_dict().items()}, folder / RAMPS)


def fingerprint(model: DeeBert) -> str:
    """12 hexadecimal digits that tell the model from any other: of the names and values of all its weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:12]


def has_ramps(folder: Path) -> bool:
    """Whether a model's folder holds ramps already, as a backbone's does that was taken over with its own."""
    return (folder / RAMPS).is_file()


def all_logits(model: DeeBert, encoded: Encoded, pad_token_id: int, batch_tokens: int) -> np.ndarray:
    """Logits (N, L, C) of every head for the encoded samples, in their order, computed in float32.

    A batch has at most `batch_tokens` tokens, once padded with `pad_token_id`.

    float32 even where bf16 is faster: these are the figures that everything else is compared with.
    """
    device = pick_device()
    model.to(device).eval()
    config = model.backbone.config
    logits = np.empty((len(encoded), config.num_hidden_layers, config.num_labels), dtype=np.float32)
    with torch.inference_mode(), tqdm(total=len(encoded), desc="all layers", unit="sample", disable=None) as bar:
        for rows in batches_by_length(encoded.lengths, batch_tokens):
            logits[rows] = model(**encoded.padded(rows, pad_token_id, device)).cpu().numpy()
            bar.update(len(rows))
    return logits
