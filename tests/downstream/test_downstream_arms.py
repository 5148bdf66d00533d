"""Arms that need more than DT-GAN: trained baselines, and a gate that images must pass."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dtgan_core.checkpoints import read_json, write_json_atomic
from dtgan_core.files import sha256_of
from dtgan_lab.baselines.generators import Makers, Transfers
from dtgan_lab.cli.main import main
from dtgan_lab.data import Dataset
from dtgan_lab.data import dataset as reading
from dtgan_lab.downstream import arms as classification_arms
from dtgan_lab.downstream.arms import ARMS, Arm
from dtgan_lab.downstream.comparison import Comparison, lacking, read_results, run_arms
from dtgan_lab.downstream.gate import RULES, TRIES, load_gate
from dtgan_lab.downstream.training_set import (
    JUDGE,
    MODEL,
    RETRY,
    Materials,
    Painted,
    Task,
    TrainingSet,
)
from dtgan_lab.export.gate import Rules
from dtgan_lab.measure.judge import WEIGHTS_NAME
from tests.core_fixtures import DEFECTS, PRODUCTS, SIZE, failure
from tests.downstream_fixtures import PASS, PER_CLASS, REFUSE, gate_of, load_baselines, quick, some

SHARE, MISSING = 12, 6  # images of a product and defect, and how many of them are synthetic
CELLS = [(p, y) for p in range(3) for y in (1, 2)]  # in the order in which they are filled


def levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] as a training set holds them."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def made_of(taught: TrainingSet, product: int, defect: int) -> tuple[Tensor, list[Any]]:
    """Synthetic images of a cell, and what each was made of."""
    here = (taught.products == product) & (taught.defects == defect) & taught.is_synthetic
    index = here.nonzero().flatten().tolist()
    return taught.images[index], [taught.sources[n] for n in index]


def images_at(materials: Materials, paths: list[str]) -> Tensor:
    numbers = [materials.store.paths.index(path) for path in paths]
    return materials.store.to_float(torch.tensor(numbers))


# --- baselines -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["stylegan2", "biggan"])
def test_makers_draw_whole_images_of_product_and_defect(name, materials):
    taught = ARMS[name].training_set(materials, PER_CLASS, seed=3)
    baseline: Any = materials.baselines[name]
    assert isinstance(baseline, Makers)
    for p, y in CELLS:
        images, sources = made_of(taught, p, y)
        assert sources == [()] * MISSING, "no image of the data set went into it"
        first = (p * 3 + y) * SHARE
        direct = baseline.make(PRODUCTS[p], DEFECTS[y], MISSING, seed=3, first=first)
        assert torch.equal(images, levels(direct))


def test_transfers_lay_a_training_defect_of_the_same_product(materials):
    taught = ARMS["mokady"].training_set(materials, PER_CLASS, seed=3)
    baseline: Any = materials.baselines["mokady"]
    assert isinstance(baseline, Transfers)
    for p, y in CELLS:
        images, sources = made_of(taught, p, y)
        backgrounds, references = ([pair[side] for pair in sources] for side in (0, 1))
        assert {path.split("/")[1] for path in backgrounds + references} == {PRODUCTS[p]}
        assert {path.split("/")[2] for path in backgrounds} == {"Normal"}
        assert len(set(references)) == MISSING, "every one as often as any other"
        assert {path.rpartition("/")[0] for path in references} == {
            f"train/{PRODUCTS[p]}/{DEFECTS[y]}"
        }
        x, x_ref = images_at(materials, backgrounds), images_at(materials, references)
        direct = baseline.transfer(PRODUCTS[p], DEFECTS[y], x, x_ref)
        assert torch.equal(images, levels(direct))


# --- the gate ------------------------------------------------------------------------------------
def rounds(*answers: list[list[float]]) -> Callable[[float], tuple[list[float], int]]:
    """A judge that sees these chances in the images it is shown: cell by cell, round by round."""
    told = [chances for answer in answers for chances in answer]
    shown = iter(told * len(CELLS))
    return lambda mean: (next(shown), 0)


def gated(
    dataset: Dataset,
    materials: Materials,
    prediction: Callable[[float], tuple[list[float], int]],
    name: str = "dtgan-latent+gate",
    keep_product: bool = False,
) -> TrainingSet:
    gate = gate_of(dataset, materials.the(MODEL), prediction, keep_product)
    return ARMS[name].training_set(replace(materials, gate=gate), PER_CLASS, seed=4)


def test_what_the_judge_does_not_believe_is_drawn_again(dataset, synth, materials):
    half = [PASS, REFUSE] * 3
    taught = gated(dataset, materials, rounds(half, [REFUSE, PASS, REFUSE], [PASS] * 2))
    assert taught.gate_counts(DEFECTS) == {
        "Normal": {"asked": 0, "refused": 0, "left_out": 0},
        "Scratches": {"asked": 18, "refused": 15, "left_out": 0},
        "Spots": {"asked": 18, "refused": 15, "left_out": 0},
    }
    plain = ARMS["dtgan-latent"].training_set(materials, PER_CLASS, seed=4)
    for p, y in CELLS:
        images, sources = made_of(taught, p, y)
        before, order = made_of(plain, p, y)
        assert sorted(sources) == sorted(order), "the same backgrounds, one image each"
        assert torch.equal(images[:3], before[::2]), "what passes at once is as without a gate"
        assert sources == [*order[::2], order[3], order[1], order[5]]
        first = (p * 3 + y) * SHARE
        # the second round draws three images under another seed, of which the middle one passes
        x = images_at(materials, [path for (path,) in order[1::2]])
        again = synth.latent_guided(x, DEFECTS[y], 4 + RETRY, first)
        assert torch.equal(images[3], levels(again)[1])
        x = images_at(materials, [path for (path,) in order[1::4]])
        third = synth.latent_guided(x, DEFECTS[y], 4 + 2 * RETRY, first)
        assert torch.equal(images[4:], levels(third))


def test_references_are_chosen_anew(dataset, materials):
    prediction = rounds([REFUSE] * MISSING, [PASS] * MISSING)
    taught = gated(dataset, materials, prediction, "dtgan-reference+gate")
    plain = ARMS["dtgan-reference"].training_set(materials, PER_CLASS, seed=4)
    same = 0
    for p, y in CELLS:
        (images, sources), (before, order) = made_of(taught, p, y), made_of(plain, p, y)
        assert [background for background, _ in sources] == [b for b, _ in order]
        assert {reference.split("/")[2] for _, reference in sources} == {DEFECTS[y]}
        same += sum(a == b for a, b in zip(sources, order, strict=True))
        assert not torch.equal(images, before)
    assert same < 9, "of 36 pairs one in 18 is met again by chance"


def test_the_product_must_be_kept_and_what_still_fails_is_left_out(dataset, materials):
    assert Rules(min_confidence=0.5, keep_product=True) == RULES
    taught = gated(dataset, materials, lambda mean: (PASS, 0), keep_product=True)  # sees A
    assert set(taught.products[taught.is_synthetic].tolist()) == {0}
    one = {"asked": 18, "refused": 12 * TRIES, "left_out": 12}
    counts = taught.gate_counts(DEFECTS)
    assert counts["Scratches"] == counts["Spots"] == one
    assert taught.counts(DEFECTS)["Spots"] == {"real": 18, "synthetic": 6}
    assert len(taught.images) == len(taught.sources) == len(taught.flips) == 72 + 12


def test_copies_do_not_pass(dataset, materials, monkeypatch):
    drawn: list[Task] = []

    def copied(made_from: Materials, task: Task) -> Painted:
        drawn.append(task)
        references = task.references(made_from.cell(task.product, task.defect))
        return Painted(made_from.store.to_float(torch.tensor(references)), task.sources(references))

    monkeypatch.setitem(ARMS, "here", Arm("here", copied, needs_model=True, gated=True))
    taught = gated(dataset, materials, lambda mean: (PASS, 0), "here")
    counts = taught.gate_counts(DEFECTS)["Spots"]
    assert counts == {"asked": 18, "refused": 18 * TRIES, "left_out": 18}
    assert not taught.is_synthetic.any()
    assert [task.seed for task in drawn] == [4 + n * RETRY for n in range(TRIES)] * len(CELLS)


def test_counts_are_summed_over_tasks(dataset, materials, monkeypatch):
    monkeypatch.setattr(classification_arms, "CHUNK", 4)  # so that a cell's six are two tasks
    counts = gated(dataset, materials, rounds([REFUSE] * 4, [PASS] * 6)).gate_counts(DEFECTS)
    assert counts["Spots"] == {"asked": 18, "refused": 12, "left_out": 0}


def test_the_gate_looks_at_no_test_image(dataset, synth, judge, monkeypatch):
    read: list[str] = []
    plain = reading.read_plain

    def watched(path: Path) -> bytes:
        read.extend(path.relative_to(dataset.root).parts)
        return plain(path)

    monkeypatch.setattr(reading, "read_plain", watched)
    gate = load_gate(synth, judge, dataset)
    assert {"train", "val"} <= set(read) and "test" not in read
    assert gate.rules == RULES and gate.copies is not None and gate.judge is not None
    assert gate.judge_sha256 == sha256_of(judge / WEIGHTS_NAME)


def test_arms_without_what_they_need_say_so(materials):
    bare = Materials(materials.store)
    for name, message in (
        ("mokady", "needs a trained mokady; name one with --baseline mokady=DIR"),
        ("dtgan-both+gate", "needs a trained model; name one with --checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            ARMS[name].training_set(bare, PER_CLASS, seed=0)
    with pytest.raises(ValueError, match="needs a judge; name one with --judge"):
        ARMS["dtgan-both+gate"].training_set(materials, PER_CLASS, seed=0)
    assert lacking(ARMS, materials.given()) == {JUDGE: [name for name in ARMS if "+gate" in name]}
    assert MODEL in lacking(ARMS, bare.given())


# --- results -------------------------------------------------------------------------------------
def test_baselines_and_judges_are_part_of_the_key_for_their_own_arms_alone(
    dataset, synth, materials
):
    gate = gate_of(dataset, synth, some)
    full = Comparison(dataset, quick(), synth, baselines=materials.baselines, gate=gate)
    plain = Comparison(dataset, quick(), synth)
    assert plain.key("none", 0, 36) == Comparison(dataset, quick()).key("none", 0, 36)
    for name in ("none", "dtgan-both"):
        assert full.key(name, 0, 36) == plain.key(name, 0, 36)
        assert full.key(name, 0, 36)["judge_sha256"] is None
    for name, baseline in materials.baselines.items():
        key = full.key(name, 0, 36)
        assert key["checkpoint_sha256"] == baseline.checkpoint_hash
        assert key["judge_sha256"] is None
    key = full.key("dtgan-both+gate", 0, 36)
    assert key["judge_sha256"] == "hash of the judge"
    assert key["checkpoint_sha256"] == synth.checkpoint_hash


def test_old_lines_count_as_done_and_another_judge_runs_again(dataset, synth, tmp_path, ran):
    out, names = tmp_path / "results.jsonl", ["none", "dtgan-latent", "dtgan-latent+gate"]

    def go(judge_sha256: str) -> list[dict[str, Any]]:
        ran.clear()
        gate = gate_of(dataset, synth, some)
        gate.judge_sha256 = judge_sha256
        comparison = Comparison(dataset, quick(), synth, gate=gate)
        return run_arms(comparison, names, [0], PER_CLASS, out, progress=False)

    rows = go("one")
    assert ran == [(name, 0) for name in names]
    assert [row["gate"] is None for row in rows] == [True, True, False]
    count = rows[2]["gate"]["Spots"]
    made = rows[2]["counts"]["Spots"]["synthetic"]
    assert count["asked"] == made + count["left_out"] == 18 and count["refused"] > 0
    assert "Normal" in rows[2]["gate"] and rows[2]["judge_sha256"] == "one"
    # lines as they were before there was a gate
    old = [{k: v for k, v in row.items() if k not in ("judge_sha256", "gate")} for row in rows]
    out.write_text("".join(json.dumps(row) + "\n" for row in old))
    assert [row["arm"] for row in go("one")] == names
    assert ran == [("dtgan-latent+gate", 0)]
    assert len(go("another")) == 3 and ran == [("dtgan-latent+gate", 0)]
    assert len(read_results(out)) == 5
    assert len(go("one")) == 3 and ran == []


def test_baselines_that_do_not_fit_are_refused(dataset, folders):
    maker = load_baselines(folders)["stylegan2"]
    maker.anchor = "Good"
    with pytest.raises(ValueError, match="good parts are Good, .* calls them Normal"):
        Comparison(dataset, quick(), baselines={"stylegan2": maker})
    maker.channels = 3
    with pytest.raises(ValueError, match="3 channel.s. .* takes 1 and 32; give another folder"):
        Comparison(dataset, quick(), baselines={"stylegan2": maker})


# --- the command line ----------------------------------------------------------------------------
def test_command_runs_arms_and_prints_the_table(data, export, folders, judge, tmp_path, capsys):
    out, maker, model = (tmp_path / name for name in ("results.jsonl", "stylegan2", "model"))
    shutil.copytree(folders["stylegan2"], maker)
    shutil.copytree(export, model)
    for path in (*maker.glob("*/card.json"), model / "card.json"):
        card = read_json(path)
        write_json_atomic(path, card | {"data": card["data"] | {"manifest_sha256": "another"}})
    arms = ["none", "stylegan2", "mokady", "dtgan-both+gate+reversal"]
    command = f"classify --data {data} --arms {','.join(arms)} --seeds 1"
    command += f" --baseline stylegan2={maker} --baseline mokady={folders['mokady']}"
    command += f" --checkpoint {model} --judge {judge} --images-per-class 24 --preset tiny"
    assert main([*command.split(), *f"--iterations 1 --device cpu --out {out}".split()]) == 0
    printed = capsys.readouterr()
    for learned in (maker, model, judge):
        assert f"{learned} was trained on another version" in printed.err
    assert "stylegan2" in printed.out and f"done: {out}" in printed.out
    rows = {row["arm"]: row for row in read_results(out)}
    assert list(rows) == arms
    assert rows["mokady"]["counts"]["Spots"]["synthetic"] == 6
    assert rows["none"]["config"]["image_size"] == SIZE
    gate = rows["dtgan-both+gate+reversal"]
    assert gate["judge_sha256"] == sha256_of(judge / WEIGHTS_NAME)
    assert gate["gate"]["Spots"]["asked"] == 6


def test_all_are_the_arms_whose_needs_are_given(data, folders, tmp_path, capsys):
    out = tmp_path / "results.jsonl"
    command = f"classify --data {data} --arms all --baseline biggan={folders['biggan']} --seeds 1"
    command += f" --images-per-class 21 --preset tiny --iterations 1 --device cpu --out {out}"
    assert main(command.split()) == 0
    found = [row["arm"] for row in read_results(out)]
    needless = "none traditional cutmix copy-paste copy-paste-all cutpaste perlin"
    assert found == [*needless.split(), "biggan"]
    told = capsys.readouterr().err
    assert "left out, for want of --baseline mokady=DIR: mokady\n" in told
    assert "left out, for want of --checkpoint DIR: dtgan-latent, dtgan-latent+rev" in told
    assert "left out, for want of --judge DIR: dtgan-latent+gate, " in told
    assert "biggan" not in told


@pytest.mark.parametrize(
    "options, message",
    [
        ("--arms none,nonsense", "unknown arm 'nonsense'; expected one of none, traditional"),
        ("--arms dtgan-latent@A", "unknown arm 'dtgan-latent@A'; expected one of none"),
        ("--arms none,copy-paste-all@Z", "no product 'Z' to take defects from: A, B, C"),
        ("--backbone vgg", "backbone is 'vgg'"),
        ("--baseline stylegan2", "--baseline stylegan2: expected NAME=DIR, such as stylegan2=runs"),
        ("--baseline cutmix=x", "'cutmix' cannot name an arm; expected stylegan2, biggan, mokady"),
        ("--baseline biggan=a --baseline biggan=b", "biggan is a already; expected each name once"),
        (
            "--arms stylegan2,biggan --baseline stylegan2={stylegan2}",
            "the arms biggan need a trained biggan; name one with --baseline biggan=DIR",
        ),
        (
            "--arms dtgan-both+gate,dtgan-latent+gate --checkpoint {export}",
            "the arms dtgan-both+gate, dtgan-latent+gate need a judge; name one with --judge DIR",
        ),
        (
            "--arms dtgan-both+gate --judge {judge}",
            "the arms dtgan-both+gate need a trained model; name one with --checkpoint DIR",
        ),
        (
            "--arms biggan --baseline biggan={stylegan2}",
            "found models of stylegan2, expected biggan; give a folder that `python -m",
        ),
        (
            "--arms biggan --baseline biggan={export}",
            "found models of dtgan, expected biggan",
        ),
        ("--arms biggan --baseline biggan={judge}/none", "found nothing, expected card.json"),
        (
            "--arms stylegan2 --baseline stylegan2={stylegan2}/A-Scratches",
            "no stylegan2 model makes B Scratches; found A Normal, A Scratches, A Spots; expected",
        ),
        (
            "--arms mokady --baseline mokady={mokady}/A-Spots",
            "train --method mokady --product A --defect Scratches",
        ),
        (
            "--arms biggan --baseline biggan={biggan} --image-size 64",
            "--baseline biggan makes images of 1 channel(s) and 32 pixels, the classifier takes 1",
        ),
    ],
)
def test_command_refuses_nonsense(options, message, data, export, judge, folders, tmp_path, capsys):
    out = tmp_path / "results.jsonl"
    named = {"export": export, "judge": judge, **folders}
    words = [word.format(**named) for word in options.split()]
    line = failure(capsys, "classify", "--data", data, "--out", out, "--preset", "tiny", *words)
    assert message in line
    assert not out.exists()
