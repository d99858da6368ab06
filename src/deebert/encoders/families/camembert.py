"""CamemBERT: RoBERTa for French. Source: Martin et al., ACL 2020."""

from deebert.encoders.families.roberta import FAMILY

__all__ = ["FAMILY"]
