"""XLM-RoBERTa: RoBERTa with a vocabulary of a hundred languages. Source: Conneau et al., ACL 2020."""

from deebert.encoders.families.roberta import FAMILY

__all__ = ["FAMILY"]
