"""The whole U-Net, and the MLP, beside the same architecture in PyTorch: output, loss and every gradient, in float64."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.recipes import YARDSTICK

torch = pytest.importorskip("torch")

from torch_unet import TorchMLP, TorchUNet, torch_layout, torch_name  # noqa: E402

torch.set_num_threads(1)

CONFIGS = {
    "three levels, attention at the second": dict(
        image_size=8,
        in_channels=3,
        out_channels=2,
        ch=4,
        ch_mult=(1, 2, 3),
        num_res_blocks=1,
        attn_resolutions=(4,),
        groups=2,
    ),
    "two blocks a level, attention at the first": dict(
        image_size=6,
        in_channels=1,
        out_channels=1,
        ch=8,
        ch_mult=(2, 1),
        num_res_blocks=2,
        attn_resolutions=(6,),
        groups=4,
    ),
    "one level": dict(
        image_size=5, in_channels=2, out_channels=3, ch=6, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), groups=3
    ),
}
T = [1, 7, 1000]


def close(got, want):
    """Equal to nine digits, or both zero (as the gradient of attention's k.b is: softmax ignores a common offset)."""
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-13)


def channels_first(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def both(request):
    """An sd.UNet and its twin with the same weights, after one step of backpropagation, and what they gave."""
    config, rng = request.param, np.random.default_rng(1)
    ours = sd.UNet(**config, dtype=np.float64, rng=rng)
    fill_zeros(ours.parameters(), rng)
    theirs = TorchUNet(**config, dtype=torch.float64)
    theirs.load_scratchdiff({name: p.data for name, p in ours.parameters().items()})

    size = len(T), config["image_size"], config["image_size"]
    xt, target = (rng.standard_normal((*size, config[channels])) for channels in ("in_channels", "out_channels"))
    x_ours, x_theirs = sd.Tensor(xt), channels_first(xt).requires_grad_()
    with sd.Tape() as tape:
        y_ours = ours(x_ours, np.array(T))
        loss_ours = ops.mse(y_ours, target)
    tape.backward(loss_ours)
    y_theirs = theirs(x_theirs, torch.tensor(T))
    loss_theirs = torch.nn.functional.mse_loss(y_theirs, channels_first(target))
    loss_theirs.backward()
    return (ours, x_ours, y_ours, loss_ours), (theirs, x_theirs, y_theirs, loss_theirs)


def test_the_output_and_the_loss_equal_pytorchs(both):
    (_, _, y, loss), (_, _, want, want_loss) = both
    close(y.data.transpose(0, 3, 1, 2), want.detach().numpy())
    assert loss.item() == pytest.approx(want_loss.item(), rel=1e-12)


def test_the_gradient_of_every_parameter_and_of_the_image_equals_pytorchs(both):
    (ours, x, *_), (theirs, x_theirs, *_) = both
    twins = dict(theirs.named_parameters())
    assert {torch_name(name) for name in ours.parameters()} == set(twins)
    for name, p in ours.parameters().items():
        want = twins[torch_name(name)].grad
        close(torch_layout(p.grad, want.shape).numpy(), want.numpy())
    close(x.grad.transpose(0, 3, 1, 2), x_theirs.grad.numpy())


def test_the_yardstick_has_as_many_parameters_as_its_twin():
    assert sum(p.numel() for p in TorchUNet(**YARDSTICK).parameters()) == 2_734_945


def test_the_mlp_its_loss_and_every_gradient_equal_those_of_its_twin_in_the_benchmark():
    rng = np.random.default_rng(2)
    ours, theirs = sd.MLP(dim=2, width=12, num_blocks=2, dtype=np.float64, rng=rng), TorchMLP(2, 12, 2).double()
    fill_zeros(ours.parameters(), rng)
    twins = dict(theirs.named_parameters())
    assert {torch_name(name) for name in ours.parameters()} == set(twins)
    for name, p in ours.parameters().items():
        twin = twins[torch_name(name)]
        twin.data = torch_layout(p.data, twin.shape)
    xt, target = rng.standard_normal((2, 3, 2))
    with sd.Tape() as tape:
        loss = ops.mse(ours(xt, np.array(T)), target)
    tape.backward(loss)
    want = torch.nn.functional.mse_loss(theirs(torch.from_numpy(xt), torch.tensor(T)), torch.from_numpy(target))
    want.backward()
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)
    for name, p in ours.parameters().items():
        gradient = twins[torch_name(name)].grad
        close(torch_layout(p.grad, gradient.shape).numpy(), gradient.numpy())
