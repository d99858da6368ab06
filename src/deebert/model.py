"""DeeBERT: a frozen backbone with a ramp after every layer but the last, where the backbone's own head answers.

Shapes: B samples, T tokens, H width, L layers, C classes. Ramps 1..L-1 and the head make L heads.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deebert.base.files import check_readable
from deebert.encoders.loading import load_classifier
from deebert.encoders.registry import family_of
from deebert.ramps import Ramps, check_has_ramps, load_ramps, save_ramps

WEIGHTS = "model.safetensors"


class DeeBert(nn.Module):
    """A classifier of a supported family with its ramps."""

    def __init__(self, backbone: PreTrainedModel, ramps: Ramps) -> None:
        super().__init__()
        assert len(ramps) == backbone.config.num_hidden_layers - 1
        self.backbone = backbone
        self.ramps = ramps
        self.family = family_of(backbone)

    @property
    def num_layers(self) -> int:
        return self.backbone.config.num_hidden_layers

    def head(self, layer: int, first_token: Tensor) -> Tensor:
        """Logits (B, C) of the head after `layer` (1..L), from first-token states (B, H): a ramp, or the last head."""
        if layer < self.num_layers:
            return self.ramps.ramp(layer, first_token)
        return self.family.head(self.backbone, first_token)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, C) of every head in float32, by the backbone's own forward on a padded batch.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 = token, 0 = padding; None = no padding.
            token_type_ids: (B, T); a family without token types leaves them unread.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self.family.token_types:
            inputs["token_type_ids"] = token_type_ids
        answer = self.backbone(**inputs, output_hidden_states=True)
        ramps = [self.ramps.ramp(i, answer.hidden_states[i][:, 0]) for i in range(1, self.num_layers)]
        return torch.stack([*ramps, answer.logits], dim=1).float()

    @classmethod
    def load(cls, folder: Path) -> tuple["DeeBert", PreTrainedTokenizerBase]:
        """Load `folder` as written by `save`, in eval mode and float32.

        Raises:
            UserError: files are missing or damaged, do not belong together, or must not be read.
        """
        check_readable(folder)
        check_has_ramps(folder)
        backbone, tokenizer = load_classifier(folder)
        config = backbone.config
        ramps = load_ramps(folder, config.num_hidden_layers - 1, config.hidden_size, config.num_labels)
        return cls(backbone, ramps).eval(), tokenizer


def save(backbone_folder: Path, ramps: Ramps, folder: Path) -> None:
    """Write a self-contained model: the backbone's files byte for byte, and `ramps.safetensors` beside them.

    The copy is exact so that DVC's cache holds the weights once, and proof that training ramps left them alone.
    """
    for file in sorted(backbone_folder.iterdir()):
        shutil.copyfile(file, folder / file.name)
    save_ramps(ramps, folder)


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """12 hexadecimal digits that tell a model from any other: of the names and values of all its weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:12]
