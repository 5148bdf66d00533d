"""How far apart two sets of images are, as sets of points in a space of features.

    found = compare(real, fake, extract, seed=0)      # points: float32 (N, D)
    found.to_dict()["KID (domain)"]

Every number bears the name of its space: "FID" is said of Inception alone.  Each measure has a
seed, its spread and what it was computed from beside it:

- Frechet distance (clean-fid's code) of two Gaussians.  It is biased upward for few images, and
  useless where there are no more of them than dimensions; `extrapolated` takes the largest part of
  the bias off.
- KID, a kernel distance without bias: about 0, and below 0 half of the time, for two samples of
  one distribution.  Our own, since clean-fid's takes no extractor and tells no spread.
- Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020): is what
  was made near real images, and is all of the real set reached.

None of them sees copies of training images, which have the best numbers of all: see
`dtgan_lab.measure.neighbours`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning

from dtgan_lab.measure.features import Extractor

Points = NDArray[np.floating[Any]]

SUBSETS = 100  # of a KID
LARGEST_SUBSET = 1000
HALVES = 20  # half samples of which a Frechet distance's spread is taken
NORMAL_95 = 1.96  # standard errors either side
MANIFOLD_NEIGHBOURS = 3  # precision and recall, as published
COVERAGE_NEIGHBOURS = 5  # density and coverage, as published
FEWEST = 8  # images, below which there is no number


class TooFewImagesError(ValueError):
    """Not enough images for a number that means anything."""


@dataclass(frozen=True)
class Distances:
    """Everything `compare` found; `first` is the number to be quoted, "FD" or "KID", and why.

    Numbers by their names, as `frechet`, `kid` and `manifold` give them.
    """

    space: Extractor
    n_real: int
    n_fake: int
    seed: int
    first: str
    reason: str
    frechet: dict[str, float]
    kid: dict[str, float]
    manifold: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """One flat row with full names, the first number first; what is not defined is None."""
        row: dict[str, Any] = {}
        pair = [("FD", self.frechet), ("KID", self.kid)]
        for measure, part in pair if self.first == "FD" else reversed(pair):
            for name, value in part.items():
                row[self.space.label(measure) + ("" if name == "value" else f" {name}")] = value
        for name, value in self.manifold.items():
            row[self.space.label(name) if name != "n" else "manifold n"] = value
        for name in ("first", "reason", "n_real", "n_fake", "seed"):
            row[name] = getattr(self, name)
        row |= {"dimension": self.space.dimension, "features": self.space.name}
        row["features_sha256"] = self.space.sha256
        return {name: None if value != value else value for name, value in row.items()}


def compare(real: Points, fake: Points, extractor: Extractor, seed: int = 0) -> Distances:
    """All distances between two sets of points, (N, D) and (M, D); `seed` draws all subsets.

    TooFewImagesError: fewer than 8 images on a side. ValueError: another dimension, or not finite.
    """
    check_points(real, extractor.dimension, "real")
    check_points(fake, extractor.dimension, "fake")
    return Distances(
        extractor,
        len(real),
        len(fake),
        seed,
        *which_first(len(real), len(fake), extractor.dimension),
        frechet(real, fake, seed),
        kid(real, fake, seed),
        manifold(real, fake, seed),
    )


def check_points(points: Points, dimension: int, side: str) -> None:
    """Refuse fewer than 8 points (`TooFewImagesError`), another dimension, and NaN."""
    if points.ndim != 2 or points.shape[1] != dimension:
        raise ValueError(f"{side}: points are {points.shape}, expected (N, {dimension})")
    if len(points) < FEWEST:
        raise TooFewImagesError(
            f"{side}: found {len(points)} images, expected at least {FEWEST}; make or add more"
        )
    if not np.isfinite(points).all():
        raise ValueError(f"{side}: features are not finite, expected numbers; look at its images")


def which_first(n_real: int, n_fake: int, dimension: int) -> tuple[str, str]:
    """Which number to quote, "FD" or "KID", and why."""
    fewest = min(n_real, n_fake)
    if fewest <= dimension:
        return "KID", (
            f"{fewest} images cannot fill a covariance of {dimension} dimensions, so the Fréchet "
            "distance is biased upward by an unknown amount; KID has no bias"
        )
    if fewest < 2 * dimension:
        return "KID", (
            f"{fewest} images are fewer than twice the {dimension} dimensions, so the Fréchet "
            "distance has a large bias and no spread; KID has neither trouble"
        )
    return "FD", f"{fewest} images are at least twice the {dimension} dimensions"


# --- Frechet -------------------------------------------------------------------------------------


def moments(points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (D,) and covariance (D, D) in float64."""
    exact = points.astype(np.float64)
    return exact.mean(axis=0), np.atleast_2d(np.cov(exact, rowvar=False))


def frechet_value(real: Points, fake: Points) -> float:
    """The Frechet distance of two Gaussians with the points' moments, by clean-fid; not below 0.

    Of points that hardly differ (a generator that makes one image) clean-fid's root of the product
    of covariances has a complex part and is refused; there the same trace is taken by eigenvalues.
    """
    from cleanfid.fid import frechet_distance  # it and scikit-learn load slowly

    mean, covariance = moments(real)
    other_mean, other = moments(fake)
    with catch_warnings():
        # fewer points than dimensions: the root of a singular product is still right to 1e-3, and
        # `which_first` says that the distance means little
        simplefilter("ignore", LinAlgWarning)
        try:
            value = frechet_distance(mean, covariance, other_mean, other)
        except ValueError as error:
            if "Imaginary component" not in str(error):
                raise
            shift = mean - other_mean
            spread = np.trace(covariance) + np.trace(other) - 2 * _root_trace(covariance, other)
            value = shift @ shift + spread
    return max(0.0, float(value))


def _root_trace(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Trace of the root of a product of covariances: that of root(one) other root(one)."""
    values, vectors = np.linalg.eigh(one)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    return float(np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum())


def frechet(real: Points, fake: Points, seed: int = 0, halves: int = HALVES) -> dict[str, float]:
    """The Frechet distance of points (N, D) and (M, D), from all, with its standard error.

    "value"; "spread", its standard error from half samples, with "low" and "high", value -+ 1.96 of
    it, not below 0; "extrapolated", 2 value - the mean of the halves: the part of the bias that
    falls with 1 / n taken off (Chong and Forsyth 2020), which may be below 0. But for the value NaN
    where a half has no more images than dimensions. (A bootstrap repeats images, which biases it
    upward.)

    A half sample without repetition varies about the whole as the whole varies about the truth
    (half sampling), so the standard deviation over half samples is the standard error, though their
    mean lies higher.
    """
    value = frechet_value(real, fake)
    sizes = len(real) // 2, len(fake) // 2
    if min(sizes) <= real.shape[1]:
        return {"value": value, **dict.fromkeys(("spread", "low", "high", "extrapolated"), np.nan)}
    random = np.random.default_rng([seed, 1])
    found = [
        frechet_value(
            real[random.choice(len(real), sizes[0], replace=False)],
            fake[random.choice(len(fake), sizes[1], replace=False)],
        )
        for _ in range(halves)
    ]
    spread = float(np.std(found, ddof=1))
    reach = NORMAL_95 * spread
    told = {"value": value, "spread": spread, "low": max(0.0, value - reach)}
    return told | {"high": value + reach, "extrapolated": 2 * value - float(np.mean(found))}


# --- KID -----------------------------------------------------------------------------------------


def mmd2(real: Points, fake: Points) -> float:
    """Squared maximum mean discrepancy of (N, D) and (M, D), unbiased, kernel (x . y / D + 1)^3."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)

    def kernel(a: Points, b: Points) -> Points:
        k: Points = a @ b.T / a.shape[1] + 1
        return k * k * k  # a power would take ten times as long

    within = (kernel(x, x) for x in (real, fake))
    inside = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within)
    return float(inside - 2 * kernel(real, fake).mean())


def kid(real: Points, fake: Points, seed: int = 0, subsets: int = SUBSETS) -> dict[str, float]:
    """Kernel distance: `mmd2` over random subsets of half the images, 1,000 at most.

    "value", the mean, an unbiased estimate, 0 for equal distributions; "spread", its standard
    deviation over the subsets; "subset", images of each; "subsets", their number.
    """
    size = max(2, min(len(real) // 2, len(fake) // 2, LARGEST_SUBSET))
    random = np.random.default_rng([seed, 2])
    found = [
        mmd2(
            real[random.choice(len(real), size, replace=False)],
            fake[random.choice(len(fake), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    told = {"value": float(np.mean(found)), "spread": float(np.std(found, ddof=1))}
    return told | {"subset": size, "subsets": subsets}


# --- neighbourhoods ------------------------------------------------------------------------------


def radii(points: Points, neighbours: int) -> NDArray[np.float64]:
    """Distance of each point to its k-th nearest other one, (N,)."""
    from sklearn.neighbors import NearestNeighbors

    # without arguments a point is not its own neighbour
    distance, _ = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors()
    return np.asarray(distance[:, -1], dtype=np.float64)


def manifold(real: Points, fake: Points, seed: int = 0) -> dict[str, float]:
    """Precision, recall, density and coverage of points (N, D) and (M, D), with "n" of either side.

    "precision" is the share of made images that lie near real ones, "recall" of real ones near made
    ones, "coverage" of real neighbourhoods that hold a made image; "density" says how many do,
    against as many as expected: 1 for equal distributions, without an upper limit. All depend on
    how many points there are, so the larger side is cut down to the smaller one, at random.
    """
    from sklearn.metrics.pairwise import euclidean_distances

    random = np.random.default_rng([seed, 3])
    n = min(len(real), len(fake))
    if n <= COVERAGE_NEIGHBOURS:
        raise TooFewImagesError(f"found {n} images, expected more than {COVERAGE_NEIGHBOURS}")
    real, fake = (
        side[np.sort(random.choice(len(side), n, replace=False))].astype(np.float64)
        for side in (real, fake)
    )
    distance = euclidean_distances(real, fake)  # (real, fake)
    near_real = distance <= radii(real, MANIFOLD_NEIGHBOURS)[:, None]
    near_fake = distance <= radii(fake, MANIFOLD_NEIGHBOURS)[None, :]
    held = distance <= radii(real, COVERAGE_NEIGHBOURS)[:, None]
    return {
        "precision": float(near_real.any(axis=0).mean()),
        "recall": float(near_fake.any(axis=1).mean()),
        "density": float(held.sum(axis=0).mean() / COVERAGE_NEIGHBOURS),
        "coverage": float(held.any(axis=1).mean()),
        "n": n,
    }
