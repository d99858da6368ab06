"""DeeBERT: early exit for BERT-like classifiers (Xin et al., ACL 2020, https://aclanthology.org/2020.acl-main.204)."""
