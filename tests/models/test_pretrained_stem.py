"""A pretrained stem is never thrown away, whatever the number of channels of the images."""

from __future__ import annotations

import pytest
import timm
import torch
from conftest import smallest_of_each_family
from safetensors.torch import save_file
from timm.models import adapt_input_conv

NAMES = [*smallest_of_each_family(), "bcos_simple_vit_ti_patch16_224", "bcos_vitc_ti_patch1_14"]
NAMES += ["bcos_std_simple_vit_ti_patch16_224", "bcos_std_vitc_ti_patch1_14"]


def adapted(stem: torch.Tensor, in_chans: int, *, encoded: bool, patches: bool) -> torch.Tensor:
    """What timm makes of a stem for three channels, of each half of the encoding by itself."""
    if patches:  # a linear layer on patches, the channels last
        stem = stem.reshape(len(stem), 16, 16, -1).permute(0, 3, 1, 2)
    halves = stem.chunk(2, 1) if encoded else [stem]
    made = torch.cat([adapt_input_conv(in_chans, half) for half in halves], 1)
    return made.permute(0, 2, 3, 1).flatten(1) if patches else made


LARGE = ("bcos_inception_v3", "bcos_resnet50_clip", "bcos_densenet52")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in dict.fromkeys(NAMES)],
)
def test_the_stem_comes_from_the_file_for_any_number_of_channels(name, tmp_path):
    source = timm.create_model(name)
    path = tmp_path / "file.safetensors"
    save_file(source.state_dict(), path)
    key = f"{source.pretrained_cfg['first_conv']}.weight"
    stem = source.state_dict()[key]
    for in_chans in range(1, 9):
        overlay = {"file": str(path)}
        model = timm.create_model(name, pretrained=True, in_chans=in_chans, pretrained_cfg_overlay=overlay)
        encoded, patches = "std" not in name, stem.ndim == 2
        expected = adapted(stem, in_chans, encoded=encoded, patches=patches)
        torch.testing.assert_close(model.state_dict()[key], expected)
        rest = {k: v for k, v in model.state_dict().items() if k != key}
        assert all(torch.equal(value, source.state_dict()[k]) for k, value in rest.items())
