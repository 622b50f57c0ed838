"""Weights under improved-diffusion's names make the network that they make there."""

import numpy as np
import pytest

import scratchdiff as sd

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402
from torch_improved import ImprovedUNet  # noqa: E402

OURS = dict(image_size=8, in_channels=2, out_channels=4, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,),
            num_classes=4)  # fmt: skip


def twin(heads, scale_shift):
    torch.manual_seed(0)
    net = ImprovedUNet(2, 4, 32, (1, 2), 1, attention=[1], heads=heads, scale_shift=scale_shift, classes=5).eval().double()
    for p in net.parameters():
        torch.nn.init.normal_(p, 1.0 if p.ndim == 1 and p.mean() == 1 else 0.0, 0.1)
    return net


@pytest.mark.parametrize("heads, scale_shift, T", [(1, False, 1000), (2, True, 4000)])
def test_the_output_equals_that_of_a_twin_with_the_published_names(heads, scale_shift, T, tmp_path, rng):
    net = twin(heads, scale_shift)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    model = sd.load_openai(path, T=T, heads=heads, scale_shift=scale_shift, dtype=np.float64, **OURS)
    x, t, labels = rng.standard_normal((3, 8, 8, 2)), np.array([1, 2, T]), np.array([0, 4, 2])
    with torch.no_grad():
        channels_first = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        want = net(channels_first, torch.from_numpy((t - 1) * 1000 / T), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(
        model(x, t, labels=labels).data, want.transpose(0, 2, 3, 1), rtol=0, atol=1e-9 * abs(want).max()
    )


@pytest.mark.parametrize("change, message", [
    (dict(num_res_blocks=2), "missing|larger network"),
    (dict(attn_resolutions=()), "unexpected input_blocks.3.1"),
    (dict(ch=64), "larger network|has shape"),
    (dict(num_classes=5), r"label_emb.weight has shape \(5, 128\), not \(6, 128\)"),
])  # fmt: skip
def test_settings_that_do_not_fit_the_file_are_named(change, message, tmp_path):
    save_file(twin(1, False).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        sd.load_openai(tmp_path / "model.safetensors", **OURS | change)
