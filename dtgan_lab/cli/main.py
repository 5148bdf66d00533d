"""The command line: `python -m dtgan_core train | generate | judge | evaluate | ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from dtgan_core.config import ABLATIONS, PRESETS
from dtgan_lab.baselines.zoo import BASELINES, METHODS
from dtgan_lab.export import FORMATS
from dtgan_lab.measure import EXTRACTORS
from dtgan_lab.options import Parser, device_name, file, path, whole

# Names of options -> help, or what `argparse` takes; None for `SHARED` alone.
Texts = dict[str, Any]


def _one(text: str, **named: Any) -> dict[str, Any]:
    return {"help": text, **named}


def _switch(text: str, default: bool | None = False) -> dict[str, Any]:
    return {"action": "store_true", "default": default, "help": text}


#: Options that mean the same in every command; what a command says itself comes first.
SHARED: dict[str, dict[str, Any]] = {
    "checkpoint": _one("an export, or a finished run"),
    "data": _one("a data set made by a script of data_scripts/"),
    "device": _one("auto, cpu, cuda or cuda:N", default="auto"),
    "image_size": _one("side in pixels; default: the preset's"),
    "iterations": _one("training steps; default: the preset's"),
    "judge": _one("a folder written by `judge`"),
    "out": _one("folder to write"),
    "preset": _one("size of networks and training", choices=PRESETS, default="laptop"),
    "threads": _one("processor threads; default: all cores"),
}
MANY: Texts = {"action": "append", "default": []}
MACHINE: Texts = {"device": None, "threads": None}
ARM_NAMES = (
    *("none", "traditional", "cutmix", "copy-paste", "copy-paste-all", "cutpaste", "perlin"),
    *BASELINES,
    *(
        f"dtgan-{guidance}{reversal}"
        for guidance in ("latent", "reference", "both")
        for reversal in ("", "+reversal", "+reversal-all")
    ),
    *(f"dtgan-{guidance}+gate" for guidance in ("latent", "reference", "both")),
    "dtgan-both+gate+reversal",
)
FORMAT_HELP = (
    "folder: images/ and generated_masks/ with soft_masks/, or approximate_masks/; imagefolder: "
    "OUT/<defect>/*.png, as torchvision reads; layout: a data set of this kit, with the real "
    "backgrounds; coco: annotations.json with boxes and masks; tar: shards that WebDataset reads"
)


class Command(NamedTuple):
    """A command of the program, in a line and in a few, with the options of an example.

    `run` is "module.function" of `dtgan_lab`, imported when asked for, so that no command waits for
    another's modules; `needed` options are those of `SHARED` unless told otherwise; `groups` are
    title -> options that stand apart.
    """

    line: str
    about: str
    example: str
    run: str
    needed: str
    options: Texts
    groups: dict[str, Texts] = {}  # noqa: RUF012


SDI, JUDGE = "build/data/synthetic-sdi", "notebooks/checkpoints/judge-synthetic-sdi"
MODEL = "notebooks/checkpoints/composed-laptop"
COMMANDS = {
    "train": Command(
        "train a DT-GAN or a baseline on a prepared data set",
        "Train a DT-GAN, or a baseline of one product. A run that was stopped goes on with "
        "--resume.",
        f"--data {SDI} --preset laptop --out runs/first",
        "cli.commands.run_train",
        "data out",
        dict(
            out="folder of the run: checkpoints, log, samples",
            preset=None,
            ablation=_one("(a) to (e), or (f), ours; default: the preset's", choices=ABLATIONS),
            method=_one("DT-GAN or a baseline", choices=METHODS, default=METHODS[0]),
            product="baselines: the product to learn",
            defect="mokady: the defect to learn beside Normal",
            augment=_one(
                "StyleGAN2, BigGAN: of D's images", choices=("none", "diffaugment", "ada")
            ),
            iterations="length of the run; default: the preset's",
            batch="images a step; default: the preset's",
            image_size=None,
            seed="of initialisation, data order and latents; default: 0",
            precision=_one("default: auto, bf16 where native", choices=("auto", "bf16", "fp32")),
            **MACHINE,
            start_from="an export or a finished run, whose G, M and E this one begins with",
            begin_as=_one(
                "with --start-from: the defect there that one here begins as, such as hole=Spots",
                **MANY,
                metavar="MINE=THEIRS",
            ),
            resume=_switch("go on from the run's newest checkpoint"),
            set=_one(
                "any other field of the configuration, such as weights.cyc=2 or train.lr=2e-4",
                **MANY,
                metavar="GROUP.FIELD=VALUE",
            ),
        ),
    ),
    "generate": Command(
        "put synthetic defects onto your images",
        "Put defects onto defect-free images. Without --references every defect is a random draw "
        "(latent-guided); with them, shape and style are taken from real defects "
        "(reference-guided). Writes images, masks and OUT/manifest.csv; a model of configuration "
        "(f) makes its masks, those of another are approximate: the difference to the same image "
        "without a defect. An export that was stopped goes on with --resume.",
        f"--checkpoint {MODEL} --backgrounds my_good_parts --defect Scratches --count 64 "
        "--out build/my_scratches",
        "cli.generate.run_generate",
        "checkpoint defect out",
        dict(
            backgrounds="a folder of defect-free images, or one",
            defect=_one("what to put onto them, such as Scratches", nargs="+"),
            references="a folder of images with that defect, or one image; of several defects: a "
            "folder with a folder for each",
            count=_one("images to make; with --gate: that pass", default=64),
            seed=_one("the same seed makes the same images", default=0),
            batch=_one("images computed together; changes no image", default=32),
            out="a new or empty folder",
            resume=_switch("go on with the same export where it was stopped"),
            **MACHINE,
        ),
        {
            "format": dict(
                format=_one(FORMAT_HELP, choices=FORMATS, default="folder"),
                by_product=_switch("imagefolder: OUT/<product>/<defect>/*.png"),
                shard_size=_one("tar: images of an archive", default=1000),
                product="the product that all backgrounds show; default: found in --data",
            ),
            "gate": dict(
                gate=_switch("refuse images; they go to OUT/rejects with a reason"),
                judge="gate: a folder written by `judge`",
                data="gate: the training data, to tell copies by; also knows products",
                min_confidence="gate: the judge's in the defect; default: 0.5",
                keep_product=_switch("gate: the judge must see the background's"),
                min_copy_distance="gate: to the nearest training image with a defect, 1 as of real "
                "images; default: nearer than 99 %% of real images and under half their distance "
                "is a copy",
                tries="gate: images to draw at most; default: ten times --count",
            ),
        },
    ),
    "samples": Command(
        "one picture of what a checkpoint makes of a data set",
        "Draw a grid: a row a product, a good part, then for each defect two random draws, a "
        "reference from another product and its result.",
        f"--checkpoint {MODEL} --data {SDI} --out build/samples.png",
        "cli.commands.run_samples",
        "checkpoint data out",
        dict(
            split=_one("which images: train, val or test", default="test"),
            rows=_one("parts of each product", default=1),
            scale=_one("enlarge the picture so many times", type=whole(1, 16), default=2),
            seed=_one("of the random draws", default=0),
            out=_one("the PNG to write", type=file),
        ),
    ),
    "export": Command(
        "make a checkpoint folder of a run that was stopped",
        "Write the averaged weights of a run's newest checkpoint and a card that says its "
        "iterations. A run that ended has done so itself, in RUN/export.",
        "--run runs/first --out build/first",
        "cli.commands.run_export",
        "run out",
        dict(run="folder of the run"),
    ),
    "export-onnx": Command(
        "write a trained (f) as ONNX files, which need no PyTorch",
        "Write M, E and G of a checkpoint of configuration (f) as ONNX, checked against PyTorch "
        "to one grey level on 100 cases.",
        "--checkpoint notebooks/checkpoints/composed-laptop --out build/onnx",
        "export.onnx.run_export_onnx",
        "checkpoint out",
        {},
    ),
    "judge": Command(
        "train the classifier that `evaluate` asks",
        "Train a small classifier of defect and product on the real training images, and say how "
        "often it is right on held-out ones. About three minutes on one core.",
        f"--data {SDI} --image-size 64 --out build/judge",
        "cli.evaluate.run_judge",
        "data out",
        dict(
            image_size="side in pixels, the model's; default: the data's",
            iterations="training steps; default: 1500",
            seed=_one("of initialisation, data order and augmentation", default=0),
            **MACHINE,
        ),
    ),
    "domain-features": Command(
        "train the features that `evaluate --real --fake` compares in",
        "Train a small network on the clean training images; its features see the product, the "
        "defect and its place, blur, grain, grids and brightness.",
        f"--data {SDI} --out build/domain",
        "cli.evaluate.run_domain_features",
        "data out",
        dict(
            image_size="side in pixels, a multiple of 16; default: 64",
            iterations="training steps; default: 1500",
            seed=_one("of everything random; not the judge's", default=2302),
            **MACHINE,
        ),
    ),
    "evaluate": Command(
        "how good synthetic defects are, in numbers: of a checkpoint, or of two folders",
        "With --checkpoint: translate every held-out image into every domain, both ways of "
        "guidance, and tell: recognised as the target and product kept (by a judge), background "
        "PSNR, diversity against real defects, copies of training images. With --real and --fake: "
        "how far two folders of images are apart (Frechet distance, KID, precision, recall, "
        "density, coverage).",
        f"--checkpoint {MODEL} --data {SDI} --judge {JUDGE}; "
        f"python -m dtgan_core evaluate --real {SDI}/test --fake my_images",
        "cli.evaluate.run_evaluate",
        "",
        dict(
            json=_one("write everything to this file as well", type=file),
            results="add a row to this file of JSON lines",
            **MACHINE,
        ),
        {
            "a checkpoint": dict(
                checkpoint="an export, or a run, finished or not",
                data="the data set it was trained on",
                judge=None,
                seeds="sampling seeds; default: 3",
            ),
            "two folders": dict(
                real="a folder of real images",
                fake="a folder of made images",
                features=_one("the space to compare in; default: domain", choices=EXTRACTORS),
                weights=_one("of these features; default: committed, or downloaded", type=path),
                trust_weights=_switch(
                    "run the --weights of inception though they are not the published file: a "
                    "TorchScript file is a program, so do this only with one whose maker you trust",
                    None,
                ),
                image_size="side in pixels that both are brought to first",
                cache="folder that keeps features for another time",
                seed="of random subsets; default: 0",
            ),
        },
    ),
    "classify": Command(
        "whether synthetic defects help a classifier",
        "Train a classifier of defects on real images alone, and with every kind of synthetic "
        "images (an arm each), several seeds of each. `val` chooses among a classifier's states, "
        "`test` is looked at once. Every arm x seed appends a line to --out; lines that are there "
        f"already are not run again. Arms: {', '.join(ARM_NAMES)}; copy-paste-all@P and "
        "dtgan-reference@P take all defects from product P; and every name of --baseline.",
        f"--data {SDI} --arms none,traditional,copy-paste,dtgan-both --checkpoint {MODEL} "
        "--out runs/classify.jsonl",
        "cli.classify.run_classify",
        "data out",
        dict(
            arms=_one(
                "names with commas between, or `all`: every arm whose needs are given",
                default="none,traditional",
            ),
            checkpoint="an export or a finished run, for the arms dtgan-...",
            baseline=_one(
                "a trained baseline, for the arm of its name: an export, a finished run or a "
                "folder of them, such as stylegan2=runs/stylegan2; or, under a name of your own, "
                "anybody's images, PRODUCT/DEFECT/*.png or with a manifest.csv; once for each",
                **MANY,
                metavar="NAME=DIR",
            ),
            judge="a folder written by `judge`, for the arms ...+gate",
            test="another data set, whose test images are looked at instead of --data's own",
            images_per_class=_one("over all products, synthetic included", default=1200),
            seeds=_one("seeds 0 to N - 1", default=5),
            out=_one("results file, JSON lines; new or to go on with", type=file),
            preset=_one("paper: ResNet-50; else a small one", choices=("tiny", "laptop", "paper")),
            backbone="small, resnet50 or efficientnet_b4; default: the preset's",
            weights="scratch, imagenet (downloaded) or a file of torchvision's weights",
            image_size="side in pixels; default: the model's, or the preset's",
            iterations=None,
            **MACHINE,
        ),
    ),
    "card": Command(
        "write what a judge finds into a checkpoint's card, with a picture of its faults",
        "Evaluate an export as `evaluate` does, and write the numbers with their spread, the cells "
        "below the aims and a picture of the worst images beside the weights.",
        f"--checkpoint {MODEL} --data {SDI} --judge {JUDGE}",
        "card.run_card",
        "checkpoint data judge",
        dict(
            data="the data set it was trained on",
            seeds=_one("sampling seeds", default=3),
            **MACHINE,
        ),
    ),
    "study": Command(
        "many runs from one plan, each trained, judged and noted down",
        "Do the runs of a plan (TOML), or what is left of it: train, evaluate, append a row with "
        "hashes to the results. Runs that were stopped go on; several processes of one machine may "
        "share a plan, with --ray many machines.",
        f"--plan results/ablation.toml --data {SDI} --judge {JUDGE} --out runs/ablation "
        "--results results/ablation.jsonl",
        "study.run_study",
        "plan data judge out results",
        dict(
            plan="TOML: fields for all runs, a table [run.NAME]",
            out="folder of the runs",
            results="JSON lines to append to",
            limit="stop after so many runs; default: none",
            fresh=_one(
                "tell distances (domain) to so many fresh images a product and defect, such as "
                "5000; synthetic SDI alone",
                type=whole(1, 100_000),
            ),
            cache="folder that keeps their features for another time",
            device=_one(
                "auto, cpu, cuda or cuda:N; with --ray of the machine that has the run",
                type=device_name,
            ),
            threads="processor threads; default: all cores, with --ray its CPUs",
            ray=_one("hand the runs to a Ray cluster; local: this machine", metavar="ADDRESS"),
            cpus_per_run="Ray: of each run; default: --threads, else 1",
            gpus_per_run="Ray: such as 0.25; default: 1 where there are any",
        ),
    ),
}


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not where there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if not action.default else super()._get_help_string(action)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(prog="python -m dtgan_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        made = commands.add_parser(
            name,
            help=command.line,
            description=command.about,
            epilog=f"Example: python -m dtgan_core {name} {command.example}",
            formatter_class=_Formatter,
        )
        parts = [(made.add_argument_group(title), part) for title, part in command.groups.items()]
        own_options = dict.fromkeys(command.needed.split()) | command.options
        for group, texts in [*parts, (made, own_options)]:
            for option, text in texts.items():
                own = {"help": text} if isinstance(text, str) else text or {}
                group.add_argument(
                    f"--{option.replace('_', '-')}",
                    required=option in command.needed.split(),
                    **{**SHARED.get(option, {}), **own},
                )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 2 for bad input with one clear message."""
    chosen = make_parser().parse_args(arguments)
    import torch  # after the parser, so that --help and a wrong line need not wait for it

    from dtgan_lab.cli.commands import run

    if getattr(chosen, "threads", None):
        torch.set_num_threads(chosen.threads)

    return run(chosen, COMMANDS[chosen.command].run)


if __name__ == "__main__":
    sys.exit(main())
