"""Networks (PyTorch): the paper's own, and any timm backbone, under one contract."""

from ..progress import wait_passively

wait_passively()  # before any module of this package imports PyTorch
