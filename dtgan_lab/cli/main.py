"""The command line: `python -m dtgan_core train | generate | judge | evaluate | ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from dtgan_core.config import ABLATIONS, METHODS, PRESETS
from dtgan_lab import options
from dtgan_lab.cli.classify_options import add_classify
from dtgan_lab.cli.evaluate_options import add_domain_features, add_evaluate, add_judge
from dtgan_lab.cli.generate_options import add_generate


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not where there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if not action.default else super()._get_help_string(action)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "train",
        help="train a DT-GAN or a baseline on a prepared data set",
        description="Train a DT-GAN, or a baseline of one product. A run that was stopped goes on "
        "with --resume.",
        epilog="Example: python -m dtgan_core train --data build/data/synthetic-sdi "
        "--preset laptop --out runs/first",
        formatter_class=_Formatter,
    )
    add = parser.add_argument
    add("--data", required=True, help="a data set made by a script of data_scripts/")
    add("--out", required=True, help="folder of the run: checkpoints, log, samples")
    add("--preset", choices=PRESETS, default="laptop", help="size of networks and training")
    add(
        "--ablation",
        choices=list(ABLATIONS),
        help="the paper's configurations (a) to (e), or (f), ours; default: the preset's",
    )
    add("--method", choices=METHODS, default=METHODS[0], help="DT-GAN or a baseline")
    add("--product", help="baselines: the product to learn")
    add("--defect", help="mokady: the defect to learn beside Normal")
    add(
        "--augment", choices=["none", "diffaugment", "ada"], help="StyleGAN2, BigGAN: of D's images"
    )
    add("--iterations", help="length of the run; default: the preset's")
    add("--batch", help="images a step; default: the preset's")
    add("--image-size", help="side in pixels; default: the preset's")
    add("--seed", help="of initialisation, data order and latents; default: 0")
    add("--precision", choices=["auto", "bf16", "fp32"], help="default: auto, bf16 where native")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")
    add("--resume", action="store_true", help="go on from the run's newest checkpoint")
    add(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.FIELD=VALUE",
        help="any other field of the configuration, such as weights.cyc=2 or train.lr=2e-4",
    )


def _add_samples(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "samples",
        help="one picture of what a checkpoint makes of a data set",
        description="Draw a grid: a row a product, a good part, then for each defect two random "
        "draws, a reference from another product and its result.",
        formatter_class=_Formatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="an export: a folder with card.json")
    add("--data", required=True, help="a data set made by a script of data_scripts/")
    add("--split", default="test", help="which images: train, val or test")
    add("--rows", default=1, help="parts of each product")
    add("--scale", type=options.whole(1, 16), default=2, help="enlarge the picture so many times")
    add("--seed", default=0, help="of the random draws")
    add("--out", type=options.file, required=True, help="the PNG to write")


BENCHMARK_NUMBERS = """
what the numbers mean; all are of this run, medians where there are several
  convolution_gflops     10^9 floating point operations a second of the best large 3x3
                         convolution, channels_last, forward and backward, in fp32 and in bf16:
                         what the machine can do
  iteration_gflop        10^9 floating point operations of the convolutions and matrix products of
                         one training iteration
  iteration_gflops       the rate at which an iteration gets through them
  floor_s                seconds that these convolutions and matrix products need, each timed alone
                         at its best: no iteration that makes them can be faster
  iteration_s            seconds of one training iteration, all of it: batch, both players, their
                         optimisers, averaged weights; mean over the ways of guidance and over
                         steps with and without R1, as often as they come
  overhead_factor        iteration_s / floor_s; 1 would be nothing but convolutions
  plain_iteration_s      the same iterations on the reference path: fp32, PyTorch's own norms,
                         contiguous memory, nothing shared between the terms
  speedup_vs_plain       plain_iteration_s / iteration_s
  peak_memory_mib        most memory that the process held while training, MiB
  images_per_s           latent-guided images a second, networks alone, batches of 32
  images_per_s_with_png  the same through `generate`: images read, masks estimated, PNGs written
  style_to_image_ms      milliseconds from a new style to a picture (uint8), background and defect
                         map at hand: median and 95th percentile
"""


def _add_benchmark(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="how fast this machine trains and generates",
        description="Time training and generation on made-up data with untrained weights.",
        epilog=BENCHMARK_NUMBERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="laptop", help="default: laptop")
    add("--ablation", choices=list(ABLATIONS), help="default: the preset's")
    add("--image-size", help="side in pixels; default: the preset's")
    add("--batch", help="images an iteration; default: the preset's")
    add("--dtype", choices=["fp32", "bf16"], help="default: bf16 where the processor has it")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto")
    add("--threads", help="processor threads; default: all cores")
    add("--repeats", default=5, help="at most, three minutes long; default: 5")
    add("--json", action="store_true", help="print one JSON object instead of a table")


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="make a checkpoint folder of a run that was stopped",
        description="Write the averaged weights of a run's newest checkpoint and a card that says "
        "its iterations. A run that ended has done so itself, in RUN/export.",
    )
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument("--out", required=True, help="folder to write")


def _add_card(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "card",
        help="write what a judge finds into a checkpoint's card, with a picture of its faults",
        description="Evaluate an export as `evaluate` does, and write the numbers with their "
        "spread, the cells below the aims and a picture of the worst images beside the weights.",
        epilog="Example: python -m dtgan_core card "
        "--checkpoint notebooks/checkpoints/synthetic-sdi-laptop --data build/data/synthetic-sdi "
        "--judge notebooks/checkpoints/judge-synthetic-sdi",
        formatter_class=_Formatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="an export: card.json and ema.safetensors")
    add("--data", required=True, help="the data set it was trained on")
    add("--judge", required=True, help="a folder written by `judge`")
    add("--seeds", default=3, help="sampling seeds")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", help="processor threads; default: all cores")


def _add_study(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "study",
        help="many runs from one plan, each trained, judged and noted down",
        description="Do the runs of a plan (TOML), or what is left of it: train, evaluate, append "
        "a row with hashes to the results. Runs that were stopped go on; several processes of one "
        "machine may share a plan, with --ray many machines.",
        epilog="Example: python -m dtgan_core study --plan results/ablation.toml "
        "--data build/data/synthetic-sdi --judge notebooks/checkpoints/judge-synthetic-sdi "
        "--out runs/ablation --results results/ablation.jsonl",
        formatter_class=_Formatter,
    )
    add = parser.add_argument
    add("--plan", required=True, help="TOML: fields for all runs, a table [run.NAME]")
    add("--data", required=True, help="a data set made by a script of data_scripts/")
    add("--judge", required=True, help="a folder written by `judge`")
    add("--out", required=True, help="folder of the runs")
    add("--results", required=True, help="JSON lines to append to")
    add("--limit", help="stop after so many runs; default: none")
    add(
        "--fresh",
        type=options.whole(1, 100_000),
        help="tell distances (domain) to so many fresh images a product and defect, such as 5000; "
        "synthetic SDI alone",
    )
    add("--cache", help="folder that keeps their features for another time")
    add(
        "--device",
        type=options.device_name,
        default="auto",
        help="auto, cpu, cuda or cuda:N; with --ray of the machine that has the run",
    )
    add("--threads", help="processor threads; default: all cores, with --ray its CPUs")
    add("--ray", metavar="ADDRESS", help="hand the runs to a Ray cluster; local: this machine")
    add("--cpus-per-run", help="Ray: of each run; default: --threads, else 1")
    add("--gpus-per-run", help="Ray: such as 0.25; default: 1 where there are any")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser: argparse.ArgumentParser = options.Parser(
        prog="python -m dtgan_core", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    add_generate(commands, _Formatter)
    _add_samples(commands)
    _add_export(commands)
    _add_benchmark(commands)
    add_judge(commands, _Formatter)
    add_domain_features(commands, _Formatter)
    add_evaluate(commands, _Formatter)
    add_classify(commands, _Formatter)
    _add_card(commands)
    _add_study(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 2 for bad input with one clear message."""
    chosen = make_parser().parse_args(arguments)
    if getattr(chosen, "threads", None):
        torch.set_num_threads(chosen.threads)

    from dtgan_lab.cli import commands as run

    return run.run(chosen)


if __name__ == "__main__":
    sys.exit(main())
