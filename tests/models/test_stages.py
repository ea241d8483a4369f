"""All stages of a backbone as one map, of one look or two: means, places and ONNX agree."""

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw

from leukoscope.config import Model
from leukoscope.errors import UsageError
from leukoscope.models.catalogue import build_network
from leukoscope.models.export import to_onnx
from leukoscope.models.network import Network, WithMap

LITE0 = Model(name="timm:tf_efficientnet_lite0", pool="stages", looks="crop-and-cell", reduce=2, gain=2)
SIDE = 128
ONE_LOOK = 816  # channels of stem and seven blocks


def network_of(settings: Model = LITE0) -> Network:
    torch.manual_seed(0)
    network = build_network(settings, classes=2, size=SIDE).eval()
    with torch.no_grad():
        network.head.weight.normal_(0, 0.01)
    return network


def cell(*, width: float, x: float = 64, y: float = 64) -> np.ndarray:
    """A round cell with a darker nucleus, drawn four times as large and shrunk."""
    picture = Image.new("RGB", (4 * SIDE, 4 * SIDE))
    pen = ImageDraw.Draw(picture)
    for share, colour in ((1.0, (150, 110, 170)), (0.7, (90, 40, 120)), (0.25, (120, 70, 140))):
        reach = 2 * width * share
        pen.ellipse((4 * x - reach, 4 * y - reach, 4 * x + reach, 4 * y + reach), fill=colour)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def seen(network: Network, *crops: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return WithMap(network)(torch.from_numpy(np.stack(crops)))


@pytest.mark.parametrize("looks", ["crop", "crop-and-cell"])
def test_the_map_sums_to_the_answer(looks: str) -> None:
    network = network_of(LITE0.model_copy(update={"looks": looks}))
    chances, maps, embedding = seen(network, cell(width=70), cell(width=40, x=50, y=90))
    assert maps.shape == (2, 2, 8, 8)
    assert embedding.shape == (2, ONE_LOOK * (1 + (looks != "crop")))
    logit = (maps[:, 1] - maps[:, 0]).mean(dim=(1, 2))
    torch.testing.assert_close(torch.sigmoid(logit), chances[:, 1], atol=1e-5, rtol=1e-4)


def test_the_first_half_is_the_mean_of_each_stage() -> None:
    network = network_of()
    _, _, embedding = seen(network, cell(width=80))
    images = network.rescaling(torch.from_numpy(cell(width=80)[None]))
    stages = network.backbone
    with torch.no_grad():
        found = stages.stem(torch.nn.functional.avg_pool2d(images, 2))
        means = [found.mean(dim=(2, 3))]
        for block in stages.blocks:
            found = block(found)
            means.append(found.mean(dim=(2, 3)))
    torch.testing.assert_close(embedding[:, :ONE_LOOK], torch.cat(means, dim=1), atol=1e-5, rtol=1e-4)


def test_the_second_look_does_not_see_how_large_a_cell_is_nor_where() -> None:
    network = network_of()
    _, _, embedding = seen(network, cell(width=90), cell(width=60), cell(width=60, x=45, y=80))
    whole, enlarged = embedding[:, :ONE_LOOK], embedding[:, ONE_LOOK:]
    for number in (1, 2):
        moved = (enlarged[number] - enlarged[0]).norm() / enlarged[0].norm()
        assert moved < 0.2 * (whole[number] - whole[0]).norm() / whole[0].norm()


def test_what_hangs_on_a_cell_by_a_thread_moves_nothing() -> None:
    plain, hung = cell(width=60), cell(width=60).copy()
    hung[62:65, 90:125] = (140, 90, 150)
    stages = network_of().backbone
    lit = network_of().rescaling(torch.from_numpy(np.stack([plain, hung]))) - stages.black
    middle, share = stages._square(lit)
    torch.testing.assert_close(middle[0], middle[1], atol=0.01, rtol=0)
    torch.testing.assert_close(share[0], share[1], atol=0.01, rtol=0)


def test_the_map_of_the_second_look_lies_where_the_cell_is() -> None:
    network = network_of()
    crop = cell(width=40, x=96, y=32)
    with torch.no_grad():
        maps = network.features(torch.from_numpy(crop[None]))[0, ONE_LOOK:]
    change = (maps - maps.mean(dim=(1, 2), keepdim=True)).abs().mean(dim=0)
    rows, columns = np.nonzero((change > change.max() / 2).numpy())
    assert rows.mean() == pytest.approx(32 / 16 - 0.5, abs=0.75)
    assert columns.mean() == pytest.approx(96 / 16 - 0.5, abs=0.75)


def test_onnx_gives_the_same_for_any_number_of_cells() -> None:
    network = network_of()
    session = onnxruntime.InferenceSession(to_onnx(network, size=SIDE), providers=["CPUExecutionProvider"])
    crops = np.stack([cell(width=width) for width in (30, 60, 90)] + [np.zeros((SIDE, SIDE, 3), np.uint8)])
    for some in (crops[:1], crops):
        given = session.run(["probabilities", "map", "embedding"], {"crops": some})
        for mine, expected in zip(given, seen(network, *some), strict=True):
            np.testing.assert_allclose(mine, expected.numpy(), atol=2e-4)


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"name": "timm:resnet18"}, "stem and blocks"), ({"pool": "last"}, "needs model.pool = 'stages'")],
)
def test_settings_that_do_not_fit_are_refused(changed: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_network(LITE0.model_copy(update=changed), classes=2, size=SIDE)


def test_a_size_whose_stages_do_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="64, 128 or 256"):
        build_network(LITE0, classes=2, size=200)
