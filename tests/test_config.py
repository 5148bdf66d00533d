import dataclasses
import json

import pytest

from dtgan_core.config import ABLATIONS, PRESETS, Config, ModelConfig, make_config

# split, FG, BG, decoders, anchor, noise: Fig. 3, (c) and (e) taken apart
SWITCHES = {"a": "------", "b": "s-----", "c1": "sf----", "c2": "s-b---", "c": "sfb---"}
SWITCHES |= {"d": "sfbd--", "e1": "sfbda-", "e2": "sfbd-n", "e": "sfbdan", "f": "sfbdan"}


@pytest.mark.parametrize("letter", SWITCHES)
def test_ablation_letters_switch_the_papers_steps(letter):
    model = make_config("tiny", letter).model
    names = ("split_style_defect", "fg_classifier", "bg_classifier", "separate_decoders")
    on = [getattr(model, name) for name in (*names, "anchor_zero", "noise")]
    assert on == [mark != "-" for mark in SWITCHES[letter]]
    assert set(ABLATIONS) == set(SWITCHES)


def test_presets_are_what_the_readme_promises():
    assert PRESETS == ("tiny", "laptop", "workstation", "paper")
    assert [make_config(name).model.image_size for name in PRESETS] == [32, 64, 128, 128]
    paper = make_config("paper")
    # StarGAN v2's widths at 128 px: 2^14 / 128 = 128 channels, doubled up to 512
    assert paper.model.widths(16) == [128, 256, 512, 512]
    assert paper.model.style_dim == 512
    assert paper.train.iterations == 100_000
    weights = dataclasses.asdict(paper.weights)
    assert [weights.pop(name) for name in ("self_rec", "local", "area", "shape")] == [0.0] * 4
    assert [make_config(name).ablation for name in PRESETS] == ["e", "f", "f", "e"]
    assert set(weights.values()) == {1.0}
    assert paper.train.lr_mapping == pytest.approx(paper.train.lr / 100)
    assert (paper.train.beta1, paper.train.beta2, paper.train.ema_decay) == (0.0, 0.99, 0.999)
    assert (paper.train.guidance, paper.train.r1_every) == ("both", 1)


def test_widths_and_defect_shape():
    model = ModelConfig(image_size=64, width=16, max_width=64)
    assert model.widths(16) == [16, 32, 64]  # at 64, 32, 16 px
    assert model.widths(4) == [16, 32, 64, 64, 64]
    assert model.bottleneck_width == 64
    assert model.defect_shape == (32, 16, 16)  # half of the bottleneck (reading 1)
    assert dataclasses.replace(model, defect_share=0.125).defect_shape == (8, 16, 16)
    assert make_config("paper").model.defect_shape == (256, 16, 16)
    assert make_config("laptop", "a").model.defect_shape == (0, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "huge"}, "unknown preset 'huge'.*laptop"),
        ({"ablation": "g"}, "unknown ablation 'g'.*e2"),
        ({"model": {"image_size": 48}}, "image_size is 48.*power of two"),
        ({"model": {"image_size": 16}}, "image_size is 16.*at least 32"),
        ({"model": {"channels": 2}}, "channels is 2.*1.*3"),
        ({"model": {"anchor": 3}}, "anchor is 3.*0 to 2"),
        ({"model": {"resample": "fould"}}, "resample is 'fould'"),
        ({"model": {"styles": "drown"}}, "styles is 'drown'"),
        ({"model": {"styles": "drawn", "style_dim": 17}}, "style_dim is 17.*1 to 16, the latent"),
        ({"model": {"defect_share": 0.0}}, "defect_share is 0.0"),
        ({"model": {"defect_share": 1.0}}, "defect_share is 1.0"),
        ({"ablation": "a", "model": {"separate_decoders": True}}, "needs split_style_defect"),
        ({"ablation": "a", "model": {"noise": True}}, "need split_style_defect"),
        (
            {"ablation": "e", "model": {"separate_decoders": False}},
            "anchor_zero needs separate_decoders",
        ),
        ({"ablation": "f", "model": {"anchor_zero": False}}, "composed.*anchor_zero"),
        ({"train": {"guidance": "bothe"}}, "guidance is 'bothe'"),  # which would train in turns
        ({"train": {"precision": "fp16"}}, "precision is 'fp16'.*auto, bf16, fp32"),
        ({"train": {"checkpoint_every": 0}}, "checkpoint_every is 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_config(**{"preset": "tiny", **arguments})


def test_overrides_reach_their_group_and_must_name_a_field():
    with pytest.raises(TypeError, match="widht"):
        make_config("tiny", model={"widht": 8})
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config("tiny").train.lr = 1.0  # type: ignore[misc]
    config = make_config("tiny", weights={"cyc": 2.5}, train={"seed": 7}, model={"latent_dim": 5})
    assert (config.weights.cyc, config.train.seed, config.model.latent_dim) == (2.5, 7, 5)
    assert config.weights.fg == make_config("tiny").weights.fg


@pytest.mark.parametrize("letter", ABLATIONS)
def test_json_brings_the_same_config_back_and_has_no_unknown_key(letter):
    config = make_config("workstation", letter, train={"seed": 3})
    value = json.loads(json.dumps(config.to_json()))
    assert Config.from_json(value) == config
    value["model"]["depth"] = 4
    with pytest.raises(ValueError, match=r"unknown field config\.model\.depth"):
        Config.from_json(value)


def test_diversity_weight_falls_in_a_line_to_zero_and_ema_decay_warms_up():
    config = make_config("tiny", weights={"ds": 2.0}, train={"iterations": 10})
    weights = [config.diversity_weight(step) for step in (0, 5, 9, 10, 25)]
    assert weights == [2.0, 1.0, pytest.approx(0.2), 0.0, 0.0]  # 2 * (1 - step / 10)
    config = make_config("tiny", train={"ema_decay": 0.999})
    found = [config.ema_decay_at(step) for step in (0, 8, 890, 8990)]
    assert found == pytest.approx([1 / 10, 9 / 18, 891 / 900, 0.999])  # (1 + step) / (10 + step)
    assert config.ema_decay_at(10**6) == 0.999


@pytest.mark.parametrize("name", ["local", "area"])
def test_locality_rises_over_the_run_and_the_other_weights_stay(name):
    config = make_config("laptop", "e", weights={name: 4.0}, train={"iterations": 10})
    weights = [getattr(config.weights_at(step), name) for step in (0, 5, 10, 25)]
    assert weights == [0.0, 2.0, 4.0, 4.0]
    others = {"local": config.weights.local, "area": config.weights.area}
    assert dataclasses.replace(config.weights_at(5), **others) == config.weights


def test_the_classifier_of_defects_is_heard_less_from_the_middle_of_a_run_on():
    weights = {"fg": 2.0, "fg_left": 0.2}
    config = make_config("laptop", "f", weights=weights, train={"iterations": 8})
    # 2 (1 - 2 * 0.8 step / 8), at least 2 * 0.2
    found = [config.weights_at(step).fg for step in (0, 2, 4, 8, 9)]
    assert found == pytest.approx([2.0, 1.2, 0.4, 0.4, 0.4])
    paper = make_config("paper")
    assert paper.weights_at(paper.train.iterations) == paper.weights


@pytest.mark.parametrize(("size", "width"), [(64, 256), (128, 128), (256, 64)])
def test_paper_widths_follow_the_image_size(size, width):
    assert make_config("paper", model={"image_size": size}).model.width == width
    assert make_config("paper", model={"image_size": size, "width": 8}).model.width == 8
