"""The backbone with its own head, as if there were no early exit: the first stage of DeeBERT's training.

Xin et al., ACL 2020, section 3.2.
"""

from deebert.training.objective import FullDepth

OBJECTIVE = FullDepth
