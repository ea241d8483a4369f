"""The one contract that every network meets: prepared crops in, logits out, and a map that explains them exactly."""

import torch
from torch import Tensor, nn

RGB = tuple[float, float, float]


class Rescaling(nn.Module):
    """Prepared crops, 0 to 255, (batch, height, width, 3) to standardised (batch, 3, height / reduce, width / reduce).

    The transpose is only a view: the memory stays in the order of the crops, which is the fast one for convolutions.
    """

    def __init__(self, *, mean: RGB, std: RGB, reduce: int) -> None:
        super().__init__()
        self.reduce = reduce
        self.register_buffer("scale", 1 / (255 * torch.tensor(std).view(3, 1, 1)), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(3, 1, 1) / torch.tensor(std).view(3, 1, 1), False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, crops: Tensor) -> Tensor:
        images = crops.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
        return nn.functional.avg_pool2d(images, self.reduce) if self.reduce > 1 else images


class GlobalAveragePool(nn.Module):
    """(batch, channels, height, width) to (batch, channels)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class Network(nn.Module):
    """Rescaling, a backbone that keeps the plane, global average pooling, dropout, one linear head.

    With two classes the head has one output z and the logits are (0, z), so that softmax is the sigmoid of z and
    cross-entropy the binary one; with more classes it has one output each.
    """

    def __init__(
        self, backbone: nn.Module, *, channels: int, classes: int, dropout: float, mean: RGB, std: RGB, reduce: int = 1
    ) -> None:
        super().__init__()
        self.rescaling = Rescaling(mean=mean, std=std, reduce=reduce)
        self.backbone = backbone
        self.pool = GlobalAveragePool()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, 1 if classes == 2 else classes)
        self.classes = classes
        self.channels = channels
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, crops: Tensor) -> Tensor:
        """Return the last feature map, (batch, channels, h, w)."""
        features: Tensor = self.backbone(self.rescaling(crops))
        return features

    def embedding(self, crops: Tensor) -> Tensor:
        """Return the pooled features, (batch, channels)."""
        pooled: Tensor = self.pool(self.features(crops))
        return pooled

    def logits_of(self, embedding: Tensor) -> Tensor:
        """Return the logits (batch, classes) of pooled features (batch, channels)."""
        return self._with_reference(self.head(self.dropout(embedding)), dim=1)

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (batch, classes) of prepared crops, 0 to 255, (batch, height, width, 3)."""
        return self.logits_of(self.embedding(crops))

    def activation_map(self, features: Tensor) -> Tensor:
        """Return the evidence for each class at each place, (batch, classes, h, w), from a feature map.

        The head is linear in the pooled features, so it can be applied to every place before pooling: the mean of
        the map over the plane is the logit, exactly. Each place is centred over the classes, which softmax does not
        see; with two classes this makes evidence against one the evidence for the other.
        Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
        """
        weight = self.head.weight[:, :, None, None]
        evidence = self._with_reference(nn.functional.conv2d(features, weight, self.head.bias), dim=1)
        return evidence - evidence.mean(dim=1, keepdim=True)

    def _with_reference(self, outputs: Tensor, *, dim: int) -> Tensor:
        """Put the logit 0 of the first class before the single output of a two-class head."""
        return outputs if self.classes > 2 else torch.cat([torch.zeros_like(outputs), outputs], dim=dim)


class WithMap(nn.Module):
    """A network that gives (probabilities, activation map, embedding) in one pass; what is exported to ONNX."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (batch, classes), (batch, classes, h, w) and (batch, channels) of crops (batch, height, width, 3)."""
        features = self.network.features(crops)
        embedding = self.network.pool(features)
        probabilities = torch.softmax(self.network.logits_of(embedding), dim=1)
        return probabilities, self.network.activation_map(features), embedding
