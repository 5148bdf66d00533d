from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dtgan_core import checkpoints, training
from dtgan_core.checkpoints import CheckpointError, latest_step, read_json, read_tensors
from dtgan_core.config import Config, LossWeights, make_config
from dtgan_core.hardware import native_bf16, resolve_precision
from dtgan_core.training import (
    NonFiniteLossError,
    Trainer,
    build_networks,
    build_optimisers,
    match_formats,
)
from tests.core_fixtures import SIZE, tiny_config, tiny_store, train_until_killed

STATE_FILES = ("networks.safetensors", "ema.safetensors", "optimisers.safetensors")


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


# --- the beginning -------------------------------------------------------------------------------


def test_networks_begin_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = snapshot(build_networks(tiny_config()))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = snapshot(build_networks(tiny_config()))
    assert same(first, second)
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's draws are untouched
    assert not same(first, snapshot(build_networks(tiny_config(seed=1))))


def test_networks_lie_in_channels_last_memory() -> None:
    for name, weight in build_networks(tiny_config()).named_parameters():
        if weight.ndim == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last), name


def test_the_mapping_network_has_its_own_step_size() -> None:
    config = tiny_config(lr=3e-4, lr_mapping=5e-6, beta2=0.9, weight_decay=0.01)
    optimisers = build_optimisers(build_networks(config), config)
    assert {n: o.param_groups[0]["lr"] for n, o in optimisers.items()} == {
        "G": 3e-4,
        "M": 5e-6,
        "E": 3e-4,
        "D": 3e-4,
    }
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
def test_a_configuration_for_other_data_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(make_config("tiny", model=model), tiny_store())


# --- one iteration -------------------------------------------------------------------------------


def test_guidance_in_turns_or_both() -> None:
    turns = Trainer(tiny_config(guidance="alternate"), tiny_store())
    assert [turns.guidances(step) for step in range(4)] == 2 * [("latent",), ("reference",)]
    both = Trainer(tiny_config(guidance="both"), tiny_store())
    assert [both.guidances(step) for step in range(2)] == 2 * [("latent", "reference")]


def test_an_iteration_logs_every_guidance_it_trains() -> None:
    trainer = Trainer(tiny_config(guidance="both"), tiny_store())
    log = trainer.step()
    assert {name.split("/")[0] for name in log} == {"latent", "reference"}
    assert {"latent/cyc", "reference/cyc", "latent/c_abs", "reference/c_spread"} <= set(log)
    assert not any(value.requires_grad for value in log.values())
    assert trainer.step_count == 1


def test_a_reference_step_moves_g_and_d_alone() -> None:
    trainer = Trainer(tiny_config(guidance="alternate"), tiny_store())
    trainer.step_count = 1
    before = {name: snapshot(getattr(trainer.nets, name)) for name in "GMED"}
    trainer.step()
    moved = {
        name for name in "GMED" if not same(before[name], snapshot(getattr(trainer.nets, name)))
    }
    assert moved == {"G", "D"}


def test_d_learns_before_g_and_from_its_own_terms() -> None:
    """Whatever G is asked for, D's first step is the same to the byte."""
    after = []
    for weights in (LossWeights(), LossWeights(sd_rec=9, ds=9, cyc=9, d_rec=9)):
        config = dataclasses.replace(tiny_config(), weights=weights)
        trainer = Trainer(config, tiny_store())
        trainer.step()
        after.append((snapshot(trainer.nets.D), snapshot(trainer.nets.G)))
    assert same(after[0][0], after[1][0])
    assert not same(after[0][1], after[1][1])


def test_no_gradient_is_left_behind() -> None:
    trainer = Trainer(tiny_config(guidance="both"), tiny_store())
    trainer.step()
    assert all(weight.grad is None for weight in trainer.nets.parameters())
    assert all(weight.requires_grad for weight in trainer.nets.parameters())


def test_latents_are_a_function_of_seed_and_step() -> None:
    trainer, other = (Trainer(tiny_config(seed=seed), tiny_store()) for seed in (0, 1))
    z, noise = trainer.draw_latents(5)
    trainer.draw_latents(6)
    z_again, noise_again = trainer.draw_latents(5)
    assert z.shape == (6, 16)  # two draws for each of three images
    assert torch.equal(z, z_again)
    assert all(torch.equal(a, b) for a, b in zip(noise, noise_again, strict=True))
    assert not torch.equal(z, trainer.draw_latents(6).z)
    assert not torch.equal(z, other.draw_latents(5).z)


def test_the_average_by_hand() -> None:
    trainer = Trainer(tiny_config(), tiny_store())
    names = ("G.to_image.weight", "M.shared.0.weight", "E.style.bias")
    start, *learned = (
        {name: trainer.nets.get_parameter(name).detach().clone() for name in names}
        for _ in _after_each_step(trainer, 2)
    )
    for name in names:
        # decay 1/10 in the first step, 2/11 in the second
        average = 0.1 * start[name] + 0.9 * learned[0][name]
        average = 2 / 11 * average + 9 / 11 * learned[1][name]
        found = trainer.ema.get_parameter(name)
        assert torch.allclose(found, average, atol=1e-7), name
        assert not torch.equal(found, learned[1][name]), name


def _after_each_step(trainer: Trainer, count: int) -> Iterator[None]:
    """Before the first step and after every one."""
    yield
    for _ in range(count):
        trainer.step()
        yield


def test_the_average_holds_g_m_and_e_and_does_not_learn() -> None:
    trainer = Trainer(tiny_config(), tiny_store())
    assert {name.split(".")[0] for name in trainer.ema.state_dict()} == {"G", "M", "E"}
    assert not any(weight.requires_grad for weight in trainer.ema.parameters())


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


def test_the_weight_of_diversity_follows_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(tiny_config(iterations=4), weights=LossWeights(ds=2.0))
    calls = spied_objective(config, 3, monkeypatch)
    # 2 * (1 - step / 4) for G; D has no such term
    assert [w_ds for terms, w_ds in calls if "cyc" in terms] == [2.0, 1.5, 1.0]
    assert not any("ds" in terms for terms, _ in calls if "cyc" not in terms)


def test_r1_comes_seldom_and_with_its_weight_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "r1_term", lambda nets, batch: torch.tensor(2.0))
    calls = spied_objective(tiny_config(r1_every=3), 5, monkeypatch)
    of_d = [terms for terms, _ in calls if "cyc" not in terms]
    # every third step, times three
    assert [terms.get("r1") for terms in of_d] == [6.0, None, None, 6.0, None]
    assert not any("r1" in terms for terms, _ in calls if "cyc" in terms)


def test_r1_acts_on_d() -> None:
    after = []
    for gamma in (0.0, 50.0):
        config = dataclasses.replace(tiny_config(), weights=LossWeights(r1=gamma))
        trainer = Trainer(config, tiny_store())
        trainer.step()
        after.append(snapshot(trainer.nets.D))
    assert not same(*after)


@pytest.mark.parametrize("letter", ["a", "b", "d"])
def test_other_configurations_train(letter: str) -> None:
    trainer = Trainer(tiny_config(letter, guidance="both"), tiny_store())
    before = snapshot(trainer.nets)
    log = trainer.step()
    assert all(value.isfinite() for value in log.values())
    assert not same(before, snapshot(trainer.nets))


def test_colour_trains() -> None:
    config = make_config("tiny", model={"channels": 3}, train={"batch_size": 3})
    log = Trainer(config, tiny_store(3)).step()
    assert all(value.isfinite() for value in log.values())


def test_a_little_training_learns_to_reconstruct() -> None:
    """Twelve steps on one batch's worth of data: the cycle term falls, so the signs are right."""
    config = tiny_config(iterations=24, guidance="alternate", lr=2e-3)
    lines = Trainer(config, tiny_store()).run(progress=False)
    cycle = [line["latent/cyc"] for line in lines]
    assert np.mean(cycle[-4:]) < 0.8 * np.mean(cycle[:4])


# --- the run -------------------------------------------------------------------------------------


def test_a_run_leaves_log_samples_and_checkpoints(tmp_path: Path) -> None:
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
    assert written["data"] == {
        "name": "tiny",
        "products": ["A", "B", "C"],
        "defects": ["Normal", "Scratches", "Spots"],
    }
    assert written["hardware"]["precision"] == "fp32"


def test_the_sample_grid_shows_every_product_and_defect(tmp_path: Path) -> None:
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


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Trainer(tiny_config(iterations=2), tiny_store()).run()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_run_in_pieces_is_the_whole_run() -> None:
    config = tiny_config(iterations=4)
    whole, pieces = Trainer(config, tiny_store()), Trainer(config, tiny_store())
    whole.run(progress=False)
    for until in (1, 3, 4):
        pieces.run(until, progress=False)
        assert pieces.step_count == until
    assert same(snapshot(whole.nets), snapshot(pieces.nets))
    assert same(snapshot(whole.ema), snapshot(pieces.ema))


def test_saving_needs_no_folder_that_something_else_made(tmp_path: Path) -> None:
    """A checkpoint may come before the first log line and the first samples."""
    config = tiny_config(iterations=2, log_every=2, sample_every=2, checkpoint_every=1)
    Trainer(config, tiny_store(), tmp_path / "new" / "run").run(progress=False)
    assert latest_step(tmp_path / "new" / "run").name == "step-00000002"


# --- when it goes wrong --------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    config = tiny_config(iterations=9, checkpoint_every=2)
    trainer = Trainer(config, tiny_store(), tmp_path)
    trainer.run(3, progress=False)
    good = snapshot(trainer.ema)
    with torch.no_grad():
        trainer.nets.get_parameter("G.to_image.bias").fill_(float("nan"))
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.run(progress=False)
    message = str(caught.value)
    assert "iteration 4" in message
    assert "cyc" in message
    assert str(tmp_path) in message
    again = Trainer(config, tiny_store(), tmp_path)
    again.resume()
    assert again.step_count == 3  # `run(3)` ends with a checkpoint of its own
    assert same(snapshot(again.ema), good)
    again.run(4, progress=False)  # and goes on from there
    assert all(value.isfinite().all() for value in again.nets.state_dict().values())


def test_weights_that_broke_in_the_last_step_are_not_saved(tmp_path: Path) -> None:
    """The losses of an iteration are those before its update: finite, while the weights are not."""
    config = tiny_config(iterations=9, checkpoint_every=2)
    trainer = Trainer(config, tiny_store(), tmp_path)
    trainer.run(3, progress=False)
    weight = trainer.nets.get_parameter("M.shared.0.weight")
    weight.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    trainer.step_count = 4  # latent-guided, so that M learns; `run(5)` ends with a checkpoint
    with pytest.raises(NonFiniteLossError):
        trainer.run(5, progress=False)
    tensors = read_tensors(latest_step(tmp_path) / "networks.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())


# --- kill -9 and resume --------------------------------------------------------------------------

STEPS, EVERY = 6, 2
needs_bf16 = pytest.mark.skipif(not native_bf16(), reason="the processor has no native bf16")


def run_config(precision: str, guidance: str) -> Config:
    return tiny_config(
        iterations=STEPS,
        checkpoint_every=EVERY,
        sample_every=STEPS,
        precision=precision,
        guidance=guidance,
    )


def kill_a_run(config: Config, out: Path, moment: str, at: int) -> None:
    """Train in another process until it gets SIGKILL."""
    context = multiprocessing.get_context("forkserver")  # its children have torch imported already
    context.set_forkserver_preload(["dtgan_core.training", "tests.core_fixtures"])
    process = context.Process(
        target=train_until_killed,
        args=(config.to_json(), str(out), moment, at, torch.get_num_threads()),
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("precision", "guidance", "moment", "at", "from_step"),
    [
        ("fp32", "alternate", "step", 6, 4),
        ("fp32", "both", "save", 4, 2),
        pytest.param("bf16", "alternate", "pointer", 4, 2, marks=needs_bf16),
        pytest.param("bf16", "both", "step", 5, 4, marks=needs_bf16),
    ],
)
def test_a_killed_run_ends_in_the_same_bytes(
    precision: str, guidance: str, moment: str, at: int, from_step: int, tmp_path: Path
) -> None:
    config = run_config(precision, guidance)
    Trainer(config, tiny_store(), tmp_path / "whole").run(progress=False)
    kill_a_run(config, tmp_path / "killed", moment, at)
    resumed = Trainer(config, tiny_store(), tmp_path / "killed")
    resumed.resume()
    assert resumed.step_count == from_step
    resumed.run(progress=False)
    whole, killed = (latest_step(tmp_path / name) for name in ("whole", "killed"))
    assert whole.name == killed.name == f"step-{STEPS:08d}"
    for name in STATE_FILES:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    picture = f"samples/step-{STEPS:08d}.png"
    assert (tmp_path / "whole" / picture).read_bytes() == (
        tmp_path / "killed" / picture
    ).read_bytes()
    # The log has every iteration once, as if nothing had happened. A line repeats what is computed
    # less often (R1, the other guidance); after a resume that is not known yet.
    lines = [without_time(log_lines(tmp_path / name)) for name in ("whole", "killed")]
    assert [line["step"] for line in lines[1]] == list(range(1, STEPS + 1))
    for expected, found in zip(*lines, strict=True):
        assert found == {name: expected[name] for name in found}
    left = [p.name for p in (tmp_path / "killed/checkpoints").iterdir() if p.name.startswith(".")]
    assert left == []


def stopped_run(out: Path, **data: str) -> Config:
    config = tiny_config(iterations=4, checkpoint_every=2)
    Trainer(config, tiny_store(), out, data=data).run(2, progress=False)
    return config


def test_resume_brings_everything_back_in_the_formats_of_the_parameters(tmp_path: Path) -> None:
    config = stopped_run(tmp_path)
    whole = Trainer(config, tiny_store())
    whole.run(2, progress=False)
    resumed = Trainer(config, tiny_store(), tmp_path)
    resumed.resume()
    assert resumed.seconds > 0
    assert same(snapshot(whole.nets), snapshot(resumed.nets))
    for name, optimiser in resumed.optimisers.items():
        assert len(optimiser.state) == len(list(getattr(resumed.nets, name).parameters()))
        for parameter, state in optimiser.state.items():
            assert state["exp_avg"].stride() == parameter.stride()
            assert state["exp_avg_sq"].stride() == parameter.stride()


@pytest.mark.parametrize(
    ("train", "named"), [({"lr": 1e-3}, "train"), ({"seed": 5}, "train"), ({"batch_size": 4}, "")]
)
def test_resume_with_another_configuration_is_refused(
    train: dict[str, Any], named: str, tmp_path: Path
) -> None:
    config = stopped_run(tmp_path)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    with pytest.raises(CheckpointError, match=rf"config\.json.*{named}.*resume with the same"):
        Trainer(other, tiny_store(), tmp_path).resume()


def test_resume_with_other_data_is_refused(tmp_path: Path) -> None:
    config = stopped_run(tmp_path, name="tiny", manifest_sha256="aa")
    with pytest.raises(CheckpointError, match=r"config\.json.*manifest_sha256.*aa.*bb"):
        Trainer(config, tiny_store(), tmp_path, data={"manifest_sha256": "bb"}).resume()
    Trainer(config, tiny_store(), tmp_path, data={"manifest_sha256": "aa"}).resume()


def test_resume_with_other_labels_is_refused(tmp_path: Path) -> None:
    config = stopped_run(tmp_path)
    renamed = dataclasses.replace(tiny_store(), defect_names=("Normal", "Spots", "Scratches"))
    with pytest.raises(CheckpointError, match=r"config\.json.*defects"):
        Trainer(config, renamed, tmp_path).resume()


def test_resume_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json.*no such file"):
        Trainer(tiny_config(), tiny_store(), tmp_path / "none").resume()


@pytest.mark.parametrize("name", [*STATE_FILES, "state.json"])
def test_resume_from_a_damaged_checkpoint_names_the_file(name: str, tmp_path: Path) -> None:
    config = stopped_run(tmp_path)
    file = latest_step(tmp_path) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name):
        Trainer(config, tiny_store(), tmp_path).resume()


@pytest.mark.parametrize("content", ["{}", "[]", '{"config": {}}'])
def test_resume_from_an_alien_config_json_names_the_file(content: str, tmp_path: Path) -> None:
    config = stopped_run(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Trainer(config, tiny_store(), tmp_path).resume()


def test_resume_cuts_the_log(tmp_path: Path) -> None:
    config = stopped_run(tmp_path)
    kept = (tmp_path / "log.jsonl").read_text()
    later = kept.splitlines()[-1].replace('"step": 2', '"step": 3')
    (tmp_path / "log.jsonl").write_text(kept + later + "\n" + '{"step": 4, "seco')
    resumed = Trainer(config, tiny_store(), tmp_path)
    resumed.resume()
    assert (tmp_path / "log.jsonl").read_text() == kept
    resumed.run(progress=False)
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2, 3, 4]


def test_a_fresh_run_does_not_go_on_in_an_old_log(tmp_path: Path) -> None:
    """A run that died before its first checkpoint is begun again in the same folder."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "seconds": 1.0}\n{"step": 2, "seco')
    Trainer(tiny_config(iterations=2), tiny_store(), tmp_path).run(progress=False)
    assert [line["step"] for line in log_lines(tmp_path)] == [1, 2]


def test_precision() -> None:
    assert resolve_precision("fp32") == "fp32"
    assert resolve_precision("bf16") == "bf16"
    assert resolve_precision("auto") == ("bf16" if native_bf16() else "fp32")
    with pytest.raises(ValueError, match="fp16.*expected auto, bf16 or fp32"):
        resolve_precision("fp16")


# --- fused Adam and memory formats ---------------------------------------------------------------


def small_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 3))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def set_gradients(net: nn.Module, seed: int, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        grad = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 4:
            grad = grad.contiguous(memory_format=memory_format)
        weight.grad = grad


def adam(net: nn.Module, fused: bool) -> torch.optim.Adam:
    # beta1 > 0, so that both moments have something to mix up
    return torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.99), fused=fused)


def steps(net: nn.Module, optimiser: torch.optim.Adam, seeds: range, **options: Any) -> None:
    for seed in seeds:
        set_gradients(net, seed, options.get("grads", torch.channels_last))
        if options.get("match", True):
            match_formats(optimiser)
        optimiser.step()


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((x.detach() - y.detach()).abs().max()) for x, y in pairs)


def reloaded(fused: bool, tmp_path: Path) -> tuple[nn.Module, torch.optim.Adam]:
    """A net and its Adam as a resumed run has them: three steps, saved, read back."""
    net = small_net()
    optimiser = adam(net, fused=False)
    steps(net, optimiser, range(3))
    path = tmp_path / "optimisers.safetensors"
    checkpoints.write_tensors(path, checkpoints.optimiser_tensors(optimiser, "G"))
    again = adam(net, fused)
    checkpoints.load_optimiser(again, read_tensors(path), "G")
    return net, again


def test_fused_adam_equals_unfused_after_a_reload(tmp_path: Path) -> None:
    plain, plain_adam = reloaded(False, tmp_path)
    fused, fused_adam = reloaded(True, tmp_path)
    assert largest_difference(plain, fused) == 0.0
    steps(plain, plain_adam, range(3, 6))
    steps(fused, fused_adam, range(3, 6))
    assert largest_difference(plain, fused) < 1e-6
    # and neither the same as before nor the same as a run that lost its moments
    fresh, _ = reloaded(False, tmp_path)
    steps(fresh, adam(fresh, False), range(3, 6))
    assert largest_difference(plain, fresh) > 1e-3


def test_fused_adam_equals_unfused_with_contiguous_gradients() -> None:
    plain, fused = small_net(), small_net()
    steps(plain, adam(plain, False), range(3), grads=torch.contiguous_format)
    steps(fused, adam(fused, True), range(3), grads=torch.contiguous_format)
    assert largest_difference(plain, fused) < 1e-6


def test_the_trap_is_real(tmp_path: Path) -> None:
    """Contiguous moments beside channels_last parameters: fused Adam computes something else."""
    plain, plain_adam = reloaded(False, tmp_path)
    trapped, trapped_adam = reloaded(True, tmp_path)
    for state in trapped_adam.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = state[name].contiguous()
    steps(plain, plain_adam, range(3, 4))
    steps(trapped, trapped_adam, range(3, 4))
    difference = largest_difference(plain, trapped)
    if difference < 1e-6:
        pytest.skip("this version of torch has no such trap")
    assert difference > 1e-3


def test_match_formats_leaves_values_alone() -> None:
    net = small_net()
    optimiser = adam(net, True)
    set_gradients(net, 0, torch.contiguous_format)
    before = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
    match_formats(optimiser)
    after = [weight.grad for weight in net.parameters()]
    for old, new, weight in zip(before, after, net.parameters(), strict=True):
        assert new is not None and torch.equal(old, new)
        assert new.stride() == weight.stride()
