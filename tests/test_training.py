import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dtgan_core import training
from dtgan_core.checkpoints import CheckpointError, read_json, read_tensors
from dtgan_core.config import Config, LossWeights, make_config
from dtgan_core.hardware import native_bf16, resolve_precision
from dtgan_core.loop import NonFiniteLossError
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer, build_optimisers
from dtgan_lab.baselines.config import only
from tests.core_fixtures import (
    SIZE,
    latest_step,
    log_lines,
    same,
    snapshot,
    tiny_config,
    tiny_networks,
    tiny_store,
    write_tiny_export,
)


# --- the beginning -------------------------------------------------------------------------------
def test_networks_begin_from_the_seed_alone_and_lie_in_channels_last_memory():
    torch.manual_seed(1)
    first = snapshot(Trainer(tiny_config(), tiny_store()).nets)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = snapshot(nets := Trainer(tiny_config(), tiny_store()).nets)
    assert same(first, second)
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's draws are untouched
    assert not same(first, snapshot(Trainer(tiny_config(seed=1), tiny_store()).nets))
    for name, weight in nets.named_parameters():
        if weight.ndim == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last), name


@pytest.mark.parametrize("ablation", ["e", "f"])  # styles of M's own, or drawn
def test_a_run_can_begin_with_another_models_weights(ablation, tmp_path):
    known = write_tiny_export(tmp_path / "known", tiny_config(ablation))
    model, store = Synthesizer.load(known), only(tiny_store(), "A", ("Normal", "Spots"))
    store = dataclasses.replace(store, defect_names=("good", "Spots"))

    def config_of(**fields: int) -> Config:
        m = {"defects": 2, "products": 1, "bg_classifier": False, **fields}
        return make_config("tiny", ablation, model=m, train={"checkpoint_every": 1, "log_every": 2})

    first, goes_on = (Trainer(config_of(), store, tmp_path / "new" / "run") for _ in range(2))
    assert first.start_from(known) == {"good": "Normal", "Spots": "Spots"}
    x, z = store.to_float(torch.arange(2)), first.nets.M.draw(2, torch.Generator().manual_seed(0))
    here, there = torch.tensor([1, 1]), torch.tensor([2, 2])  # "Spots"
    for nets in (first.nets, first.ema):
        for mine, other in (
            (nets.M(z[0], here, z[1]), model.M(z[0], there, z[1])),
            (nets.E(x, here), model.E(x, there)),
        ):
            assert torch.equal(mine.c, other.c) and torch.equal(mine.s, other.s)
    first.run(1, progress=False)
    goes_on.resume()
    assert goes_on.describe()["data"]["started_from"] == model.checkpoint_hash
    with pytest.raises(CheckpointError, match="weights do not fit"):
        Trainer(config_of(width=16), store).start_from(known)
    colour = dataclasses.replace(store, images=store.images.repeat(1, 3, 1, 1))
    tinted = Trainer(config_of(channels=3), colour)
    if ablation == "e":
        with pytest.raises(CheckpointError, match="weights do not fit"):
            tinted.start_from(known)
    else:  # E reads grey in colour as it read grey
        tinted.start_from(known)
        found, expected = tinted.nets.E(x.repeat(1, 3, 1, 1), here), model.E(x, there)
        torch.testing.assert_close(found.c, expected.c, rtol=1e-4, atol=1e-5)
        made = tinted.nets.G(x.repeat(1, 3, 1, 1), *found)
        torch.testing.assert_close(made[:, 0], made[:, 2], rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="begin as: found 'Holes', expected of Normal"):
        first.start_from(known, {"Spots": "Holes"})
    told = {"good": "Normal", "Spots": "Scratches"}
    assert first.start_from(known, {"Spots": "Scratches"}) == told
    first.store = dataclasses.replace(store, defect_names=("good", "a", "b", "c"))
    with pytest.raises(CheckpointError, match="the data has 4 defects, the model .* 3: Normal"):
        first.start_from(known)


def test_the_mapping_network_has_its_own_step_size():
    config = tiny_config(lr=3e-4, lr_mapping=5e-6, beta2=0.9, weight_decay=0.01)
    optimisers = build_optimisers(tiny_networks(config), config)
    rates = {n: o.param_groups[0]["lr"] for n, o in optimisers.items()}
    assert rates == {"G": 3e-4, "M": 5e-6, "E": 3e-4, "D": 3e-4}
    for optimiser in optimisers.values():
        assert optimiser.param_groups[0]["betas"] == (0.0, 0.9)
        assert optimiser.param_groups[0]["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"defects": 4}, r"\(3, 3, 0\).*\(4, 3, 0\)"),
        ({"anchor": 1}, r"\(3, 3, 0\).*\(3, 3, 1\)"),
        ({"products": 2}, r"\(3, 3, 0\).*\(3, 2, 0\)"),
        ({"channels": 3}, r"\(1, 32, 32\), expected \(3, 32, 32\)"),
        ({"image_size": 64}, r"\(1, 32, 32\), expected \(1, 64, 64\)"),
    ],
)
def test_a_configuration_for_other_data_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make_config("tiny", model=model), tiny_store())


# --- one iteration -------------------------------------------------------------------------------
def test_an_iteration_logs_every_guidance_it_trains_and_leaves_no_gradient():
    trainer = Trainer(tiny_config(guidance="both"), tiny_store())
    log = trainer.step()
    assert {name.split("/")[0] for name in log} == {"latent", "reference"}
    assert {"latent/cyc", "reference/cyc", "latent/c_abs", "reference/c_spread"} <= set(log)
    assert not any(value.requires_grad for value in log.values())
    assert trainer.step_count == 1
    assert all(weight.grad is None for weight in trainer.nets.parameters())
    assert all(weight.requires_grad for weight in trainer.nets.parameters())
    assert {name.split(".")[0] for name in trainer.ema.state_dict()} == {"G", "M", "E"}
    assert not any(weight.requires_grad for weight in trainer.ema.parameters())


def test_d_learns_before_g_and_from_its_own_terms():
    """Whatever G is asked for, D's first step is the same to the byte."""
    after = []
    for weights in (LossWeights(), LossWeights(sd_rec=9, ds=9, cyc=9, d_rec=9)):
        config = dataclasses.replace(tiny_config(), weights=weights)
        trainer = Trainer(config, tiny_store())
        trainer.step()
        after.append((snapshot(trainer.nets.D), snapshot(trainer.nets.G)))
    assert same(after[0][0], after[1][0])
    assert not same(after[0][1], after[1][1])


def test_latents_are_a_function_of_seed_and_step():
    trainer, other = (Trainer(tiny_config(seed=seed), tiny_store()) for seed in (0, 1))
    z, noise = trainer.draw_latents(5)
    trainer.draw_latents(6)
    z_again, noise_again = trainer.draw_latents(5)
    assert z.shape == (6, 16)  # two draws for each of three images
    assert torch.equal(z, z_again)
    assert all(torch.equal(a, b) for a, b in zip(noise, noise_again, strict=True))
    assert not torch.equal(z, trainer.draw_latents(6).z)
    assert not torch.equal(z, other.draw_latents(5).z)


def test_the_average_by_hand():
    trainer = Trainer(tiny_config(), tiny_store())
    weights = [snapshot(trainer.nets)]
    for _ in range(2):
        trainer.step()
        weights.append(snapshot(trainer.nets))
    for name in ("G.to_image.weight", "M.shared.0.weight", "E.style.bias"):
        start, first, second = (values[name] for values in weights)
        # decay 1/10 in the first step, 2/11 in the second
        average = 2 / 11 * (0.1 * start + 0.9 * first) + 9 / 11 * second
        found = trainer.ema.get_parameter(name)
        assert torch.allclose(found, average, atol=1e-7), name
        assert not torch.equal(found, second), name


def spied_objective(
    config: Config, steps: int, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[dict[str, float], float]]:
    """(terms, w_ds) of every call of the objective: D's, then G's, iteration after iteration."""
    calls: list[tuple[dict[str, float], float]] = []
    objective = training.losses.objective

    def spy(terms: dict[str, Tensor], weights: LossWeights, w_ds: float) -> Tensor:
        calls.append(({name: float(value.detach()) for name, value in terms.items()}, w_ds))
        return objective(terms, weights, w_ds)

    monkeypatch.setattr(training.losses, "objective", spy)
    trainer = Trainer(config, tiny_store())
    for _ in range(steps):
        trainer.step()
    return calls


def test_the_weight_of_diversity_follows_its_schedule(monkeypatch):
    config = dataclasses.replace(tiny_config(iterations=4), weights=LossWeights(ds=2.0))
    calls = spied_objective(config, 3, monkeypatch)
    # 2 * (1 - step / 4) for G; D has no such term
    assert [w_ds for terms, w_ds in calls if "cyc" in terms] == [2.0, 1.5, 1.0]
    assert not any("ds" in terms for terms, _ in calls if "cyc" not in terms)


def test_r1_comes_seldom_and_with_its_weight_multiplied(monkeypatch):
    monkeypatch.setattr(training, "r1_term", lambda nets, batch: torch.tensor(2.0))
    calls = spied_objective(tiny_config(r1_every=3), 5, monkeypatch)
    of_d = [terms for terms, _ in calls if "cyc" not in terms]
    # every third step, times three
    assert [terms.get("r1") for terms in of_d] == [6.0, None, None, 6.0, None]
    assert not any("r1" in terms for terms, _ in calls if "cyc" in terms)


COLOUR = make_config("tiny", model={"channels": 3}, train={"batch_size": 3})


@pytest.mark.parametrize("config", [*(tiny_config(x, guidance="both") for x in "abd"), COLOUR])
def test_other_configurations_train(config):
    trainer = Trainer(config, tiny_store(config.model.channels))
    before = snapshot(trainer.nets)
    assert all(value.isfinite() for value in trainer.step().values())
    assert not same(before, snapshot(trainer.nets))


def test_a_little_training_learns_to_reconstruct():
    """Twelve steps on one batch's worth of data: the cycle term falls, so the signs are right."""
    config = tiny_config(iterations=24, guidance="alternate", lr=2e-3)
    lines = Trainer(config, tiny_store()).run(progress=False)
    cycle = [line["latent/cyc"] for line in lines]
    assert np.mean(cycle[-4:]) < 0.8 * np.mean(cycle[:4])


# --- the run -------------------------------------------------------------------------------------
def test_a_run_leaves_log_samples_and_checkpoints(tmp_path):
    config = tiny_config(iterations=5, log_every=2, sample_every=4, checkpoint_every=2)
    trainer = Trainer(config, tiny_store(), tmp_path / "run", data={"name": "tiny"})
    returned = trainer.run(progress=False)
    lines = log_lines(tmp_path / "run")
    assert lines == returned
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert {"latent/cyc", "reference/cyc", "latent/d_adv", "seconds"} <= set(lines[-1])
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    samples = sorted(path.name for path in (tmp_path / "run/samples").iterdir())
    assert samples == ["step-00000004.png", "step-00000005.png"]
    folders = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    assert folders == ["latest", "step-00000004", "step-00000005"]
    written = read_json(tmp_path / "run/config.json")
    assert Config.from_json(written["config"]) == config
    labels = {"products": ["A", "B", "C"], "defects": ["Normal", "Scratches", "Spots"]}
    assert written["data"] == {"name": "tiny", **labels}
    assert written["hardware"]["precision"] == "fp32"


def test_the_sample_grid_shows_every_product_and_defect(tmp_path):
    trainer = Trainer(tiny_config(), tiny_store(), tmp_path)
    trainer.write_samples()
    with Image.open(tmp_path / "samples/step-00000000.png") as image:
        # 3 products; source + 2 defects x (2 latents, reference, result); 2 px between and around
        assert image.size == (9 * (SIZE + 2) + 2, 3 * (SIZE + 2) + 2)
        grid = np.asarray(image.convert("L"))
    store = trainer.store
    for row in range(3):
        source = grid[2 + row * (SIZE + 2) :, 2:][:SIZE, :SIZE]
        normal = (store.products == row) & (store.defects == 0)
        assert np.array_equal(source, store.images[normal][0, 0].numpy())
    assert np.array_equal(trainer.sample_picture(), trainer.sample_picture())


def test_a_run_in_pieces_is_the_whole_run_and_prints_nothing_without_a_terminal(capfd):
    config = tiny_config(iterations=4)
    whole, pieces = Trainer(config, tiny_store()), Trainer(config, tiny_store())
    whole.run()
    assert tuple(capfd.readouterr()) == ("", "")
    for until in (1, 3, 4):
        pieces.run(until, progress=False)
        assert pieces.step_count == until
    assert same(snapshot(whole.nets), snapshot(pieces.nets))
    assert same(snapshot(whole.ema), snapshot(pieces.ema))


# --- when it goes wrong --------------------------------------------------------------------------
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny_config(iterations=9, checkpoint_every=2)
    trainer = Trainer(config, tiny_store(), tmp_path)
    trainer.run(3, progress=False)
    good = snapshot(trainer.ema)
    with torch.no_grad():
        trainer.nets.get_parameter("G.to_image.bias").fill_(float("nan"))
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.run(progress=False)
    assert all(part in str(caught.value) for part in ("iteration 4", "cyc", str(tmp_path)))
    again = Trainer(config, tiny_store(), tmp_path)
    again.resume()
    assert again.step_count == 3  # `run(3)` ends with a checkpoint of its own
    assert same(snapshot(again.ema), good)
    again.run(4, progress=False)  # and goes on from there
    assert all(value.isfinite().all() for value in again.nets.state_dict().values())
    # The losses of an iteration are those before its update: finite, while the weights are not.
    weight = again.nets.get_parameter("M.shared.0.weight")
    weight.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    with pytest.raises(NonFiniteLossError):  # latent-guided, so that M learns
        again.run(5, progress=False)
    tensors = read_tensors(latest_step(tmp_path) / "networks.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())


def test_precision():
    assert [resolve_precision(name) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("auto") == ("bf16" if native_bf16() else "fp32")


@pytest.mark.parametrize("ablation", ["a", "e", "f"])
def test_an_iteration_takes_the_memory_that_is_asked_for(ablation, monkeypatch):
    """In fp32, where what is kept for the gradients takes twice what it takes in bf16."""
    needs: list[int] = []
    monkeypatch.setattr("dtgan_core.loop.require_memory", lambda need, *_: needs.append(need))
    trainer = Trainer(tiny_config(ablation), tiny_store())
    iteration, weights = needs
    assert weights == 16 * sum(weight.numel() for weight in trainer.nets.parameters())
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        trainer.step()
    assert 2 * iteration < sum(kept.values()) < 20 * iteration
