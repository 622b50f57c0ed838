"""A diffusion model in PyTorch joins `sd.checkup` by the two-line wrappers of its docstring; its t counts from 0."""

import numpy as np
import pytest

import scratchdiff as sd

torch = pytest.importorskip("torch")
T = 50
BETAS = torch.linspace(1e-3, 0.3, T)
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)


def arrays(f):
    return lambda x, t: f(torch.tensor(x), torch.tensor(t)).detach().numpy()


def tensors(f):
    return lambda x, t: torch.tensor(f(x.numpy(), t.numpy()))


class Network(torch.nn.Module):
    """Images (N, C, H, W), as PyTorch has them."""

    def __init__(self):
        super().__init__()
        self.time, self.enter = torch.nn.Linear(1, 8), torch.nn.Conv2d(2, 8, 3, padding=1)
        self.norm, self.leave = torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 2, 3, padding=1)
        self.use_norm = True

    def forward(self, x, t):
        h = self.enter(x) + self.time(t[:, None].float() / T)[:, :, None, None]
        return self.leave(torch.relu(self.norm(h) if self.use_norm else h))


def q_sample(x0, t, eps):
    a = ALPHA_BAR[t].reshape(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def ddpm_loss(model, x0, last=T):
    t, eps = torch.randint(0, last, (len(x0),)), torch.randn_like(x0)
    return torch.nn.functional.mse_loss(model(q_sample(x0, t, eps), t), eps)


def ddim(model, shape):
    x = torch.randn(shape)
    for t in reversed(range(T)):
        eps = model(x, torch.full((shape[0],), t))
        x0 = (x - (1 - ALPHA_BAR[t]).sqrt() * eps) / ALPHA_BAR[t].sqrt()
        a = ALPHA_BAR[t - 1] if t else torch.ones(())
        x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return x


def seeded(rng):
    torch.manual_seed(int(rng.integers(2**31)))


def checkup(network, last=T):
    def loss(model, x0, rng):
        seeded(rng)
        return ddpm_loss(tensors(model), torch.tensor(x0), last).item()

    def gradients(x0, rng):
        seeded(rng)
        network.zero_grad()
        ddpm_loss(network, torch.tensor(x0), last).backward()
        return {name: None if p.grad is None else p.grad.numpy() for name, p in network.named_parameters()}

    def sampler(model, shape, rng):
        seeded(rng)
        return ddim(tensors(model), shape).numpy()

    data = np.random.default_rng(0).uniform(-1, 1, (40, 2, 4, 4)).astype(np.float32)
    return sd.checkup(
        schedule=BETAS.numpy(), alpha_bar=ALPHA_BAR.numpy(), model=arrays(network), loss=loss, sampler=sampler, data=data,
        q_sample=lambda x0, t, eps: q_sample(*map(torch.tensor, (x0, t, eps))).numpy(), gradients=gradients,
        parameters={name: p.detach().numpy() for name, p in network.named_parameters()}, first_t=0,
    )  # fmt: skip


def test_right_pytorch_code_passes():
    torch.manual_seed(0)
    found = checkup(Network())
    assert found == [] and len(found.passed) > 20, found


def test_bugs_of_pytorch_code_are_found_in_their_places():
    torch.manual_seed(0)
    network = Network()
    network.use_norm = False
    found = {f.detector: f for f in checkup(network, last=T - 1)}
    assert set(found) == {"uses_every_parameter", "draws_every_t"}
    assert "norm.weight, norm.bias" in found["uses_every_parameter"].seen
    assert found["draws_every_t"].what == "some t are never trained"
