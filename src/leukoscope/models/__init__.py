"""Networks (PyTorch): the paper's own, and any timm backbone, under one contract."""
