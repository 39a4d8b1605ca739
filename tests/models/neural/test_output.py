"""The adaptive softmax against its definition, worked out over the whole vocabulary."""

import pytest
import torch
from safetensors.torch import save_file

from lmlab.errors import ArtifactError, SettingError
from lmlab.models.neural.cnn import CNN
from lmlab.models.neural.output import AdaptiveSoftmax
from lmlab.models.neural.rnn import LSTM
from lmlab.models.neural.transformer import Transformer
from lmlab.testing import check_laws
from lmlab.vocabulary import BOS, IGNORE, PAD

H, V, N = 80, 3000, 400


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    made = AdaptiveSoftmax(H, V)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(1)
    targets_N = torch.randint(4, V, (N,), generator=generator)
    targets_N[::7], targets_N[1::7], targets_N[2::7] = IGNORE, 1, 374  # [UNK], and the shortlist's last
    return torch.randn(N, H, generator=generator), targets_N


def gradients(loss, layer):
    layer.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in layer.parameters()]


def test_a_rare_token_is_its_cluster_and_then_itself(layer, rows):
    features_NH, _ = rows
    logp_NV = layer(features_NH)
    head = (features_NH @ layer.head.weight.T + layer.head.bias).index_fill(1, torch.tensor([PAD, BOS]), -torch.inf)
    head = head.softmax(-1)
    last = layer.clusters[1]
    inside = (features_NH @ last.narrow.weight.T @ last.last.weight.T + last.last.bias).softmax(-1)
    assert torch.allclose(logp_NV[:, :375].exp(), head[:, :375], rtol=1e-5)
    assert torch.allclose(logp_NV[:, 1500:].exp(), head[:, 376, None] * inside, rtol=1e-5)
    assert torch.allclose(logp_NV.exp().sum(-1), torch.ones(N), atol=1e-5)
    assert (logp_NV[:, [PAD, BOS]] == -torch.inf).all()


def test_the_loss_and_its_gradients_are_those_of_the_whole_distribution(layer, rows):
    features_NH, targets_N = rows
    kept_N = targets_N != IGNORE
    whole = -layer(features_NH[kept_N]).gather(1, targets_N[kept_N, None]).sum()
    loss = layer.nats(features_NH, targets_N)
    assert loss.item() == pytest.approx(whole.item(), rel=2e-6)
    for found, wanted in zip(gradients(loss, layer), gradients(whole, layer), strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 5e-6


def test_every_weight_has_a_gradient_when_no_target_is_rare(layer, rows):
    features_NH, _ = rows
    found = gradients(layer.nats(features_NH, torch.full((N,), 5)), layer)
    assert all(gradient.isfinite().all() for gradient in found)
    assert sum(bool(gradient.any()) for gradient in found) == 2  # the head's


@pytest.mark.parametrize("kind", [LSTM, CNN, Transformer])
@pytest.mark.parametrize("vocab_size", [5, 40])
def test_the_laws_hold(kind, vocab_size):
    torch.manual_seed(0)
    check_laws(kind(kind.Settings(softmax="adaptive"), vocab_size).eval())


def test_a_tied_output_cannot_be_adaptive():
    with pytest.raises(SettingError, match="tied"):
        LSTM.Settings(input="tied", softmax="adaptive")


@pytest.mark.parametrize("softmax", ["full", "adaptive"])
def test_a_temperature_divides_the_logits_and_is_kept(tmp_path, softmax):
    torch.manual_seed(0)
    model = LSTM(LSTM.Settings(embedding=8, hidden=16, softmax=softmax), 60).eval()
    ids_BT = torch.randint(4, 60, (2, 30))
    with torch.no_grad():
        plain_BTV = model(ids_BT)[0]
        model.temperature = 2.0
        blunt_BTV, loss = model(ids_BT)[0], model.loss(ids_BT, ids_BT, None)[0]
    if softmax == "full":
        assert torch.allclose(blunt_BTV, 0.5 * plain_BTV, atol=1e-6)
    else:
        assert torch.allclose(blunt_BTV.logsumexp(-1), torch.zeros(2, 30), atol=1e-5)
        assert not torch.allclose(blunt_BTV, plain_BTV, atol=1e-2)
        for start, end in ((4, 7), (7, 30), (30, 60)):  # the shortlist and the clusters: within each, logits are halved
            plain, blunt = (BTV[..., start:end] - BTV[..., start, None] for BTV in (plain_BTV, blunt_BTV))
            assert torch.allclose(blunt, 0.5 * plain, atol=1e-5)
    assert loss.item() == pytest.approx(-blunt_BTV.log_softmax(-1).gather(2, ids_BT[..., None]).sum().item(), rel=1e-5)
    check_laws(model)
    model.save(tmp_path)
    again = LSTM.load(tmp_path, model.settings, 60)
    assert again.temperature == 2.0
    assert torch.equal(again(ids_BT)[0], model(ids_BT)[0])


@pytest.mark.parametrize("temperature", [[1.0, 1.0], float("nan"), 0.0])
def test_a_temperature_that_cannot_be_is_refused(tmp_path, temperature):
    model = LSTM(LSTM.Settings(embedding=4, hidden=4), 10)
    save_file({**model.state_dict(), "temperature": torch.tensor(temperature)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"has temperature (nan|0\.0)|cannot be read \(a Tensor with 2"):
        LSTM.load(tmp_path, model.settings, 10)
