"""Distances against closed forms, their bias, their extremes, their names and their seeds."""

import json

import numpy as np
import pytest

from dtgan_lab.measure.distances import (
    Points,
    TooFewImagesError,
    check_points,
    compare,
    frechet,
    frechet_value,
    kid,
    manifold,
    mmd2,
    moments,
    radii,
    which_first,
)
from tests.distance_fixtures import Space


def normal(count: int, dimension: int, seed: int, shift: float = 0.0) -> Points:
    """Standard normal points; `shift` moves the first coordinate."""
    points = np.random.default_rng(seed).normal(size=(count, dimension))
    points[:, 0] += shift
    return points.astype(np.float32)


def with_moments(count: int, mean: Points, covariance: Points, seed: int) -> Points:
    """Points whose sample mean and covariance are exactly those given."""
    points = np.random.default_rng(seed).normal(size=(count, len(mean)))
    points -= points.mean(axis=0)
    whitened = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    found: Points = whitened @ np.linalg.cholesky(covariance).T + mean
    return found


# --- Frechet -------------------------------------------------------------------------------------
def test_frechet_of_gaussians_in_closed_form():
    random = np.random.default_rng(0)
    turn, _ = np.linalg.qr(random.normal(size=(6, 6)))  # common axes: the covariances commute
    a, b = random.uniform(0.2, 3, (2, 6))
    means = random.normal(size=(2, 6))
    real = with_moments(50, means[0], turn @ np.diag(a) @ turn.T, seed=1)
    fake = with_moments(80, means[1], turn @ np.diag(b) @ turn.T, seed=2)
    expected = np.square(means[0] - means[1]).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_value(real, fake) == pytest.approx(expected, rel=1e-6)
    assert frechet_value(fake, real) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("counts", [(60, 90), (12, 20)])
@pytest.mark.parametrize("refused", [False, True])
def test_frechet_equals_the_nuclear_norm_form_even_with_few_points(counts, refused, monkeypatch):
    if refused:  # as clean-fid does when its root comes out complex

        def refuse(*moments: object) -> float:
            raise ValueError("Imaginary component 0.01")

        monkeypatch.setattr("cleanfid.fid.frechet_distance", refuse)
    dimension = 24  # the second case leaves both covariances singular
    real, fake = normal(counts[0], dimension, 1), 1.5 * normal(counts[1], dimension, 2, shift=1)
    roots = [(p - p.mean(axis=0)) / np.sqrt(len(p) - 1) for p in (real, fake)]
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    offset = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    expected = offset + sum(np.square(root).sum() for root in roots) - 2 * overlap
    assert frechet_value(real, fake) == pytest.approx(float(expected), rel=1e-3)


def test_frechet_of_itself_of_what_is_not_finite_and_of_too_few():
    points = normal(100, 8, 0)
    assert frechet_value(points, points) == pytest.approx(0, abs=1e-6)
    broken = points.copy()
    broken[3, 2] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match="sqrtm"):  # clean-fid's own, not swallowed
        frechet_value(points, broken)
    found = frechet(normal(30, 16, 0), normal(300, 16, 1))
    assert found["value"] > 0
    assert np.isnan([found["spread"], found["low"], found["high"], found["extrapolated"]]).all()


def test_frechet_bias_falls_with_numbers_and_extrapolation_takes_it_off():
    truth, dimension = 4.0, 12  # two units apart, equal covariances
    found = [
        frechet(normal(n, dimension, n), normal(n, dimension, n + 1, shift=2.0))
        for n in (60, 240, 960)
    ]
    biases = [each["value"] - truth for each in found]
    assert biases[0] > biases[1] > 0
    assert abs(found[0]["extrapolated"] - truth) < biases[0] / 2
    assert found[2]["low"] < found[2]["value"] < found[2]["high"]


def test_frechet_spread_is_the_standard_error():
    dimension, runs = 6, 40
    pairs = [(normal(80, dimension, i), normal(80, dimension, 999 - i, 1.5)) for i in range(runs)]
    values = [frechet_value(real, fake) for real, fake in pairs]
    told = np.mean([frechet(*pair, seed=3)["spread"] for pair in pairs[:8]])
    assert told == pytest.approx(np.std(values), rel=0.4)


def test_moments_are_computed_in_double_precision():
    points = normal(50, 3, 0) + np.float32(1000)
    mean, covariance = moments(points.astype(np.float32))
    assert mean.dtype == covariance.dtype == np.float64
    assert np.allclose(covariance, np.cov(points.astype(np.float64), rowvar=False))
    assert moments(points[:, :1])[1].shape == (1, 1)


# --- KID -----------------------------------------------------------------------------------------
def test_mmd_is_the_sum_over_pairs():
    real, fake = normal(5, 3, 0), normal(4, 3, 1, shift=1)

    def kernel(a: Points, b: Points) -> float:
        return float((np.dot(a.astype(float), b.astype(float)) / 3 + 1) ** 3)

    inside = [
        np.mean([kernel(p[i], p[j]) for i in range(len(p)) for j in range(len(p)) if i != j])
        for p in (real, fake)
    ]
    between = np.mean([kernel(a, b) for a in real for b in fake])
    assert mmd2(real, fake) == pytest.approx(sum(inside) - 2 * between, rel=1e-9)


def test_kid_has_no_bias_and_the_frechet_distance_does():
    runs = 150
    pairs = [(normal(20, 8, 2 * i), normal(20, 8, 2 * i + 1)) for i in range(runs)]
    found = np.array([kid(*pair, seed=i, subsets=5)["value"] for i, pair in enumerate(pairs)])
    error = found.std(ddof=1) / np.sqrt(runs)
    assert abs(found.mean()) < 3 * error
    assert 0.3 < (found < 0).mean() < 0.8  # an estimate without bias falls below 0 as well
    assert min(frechet_value(*pair) for pair in pairs[:20]) > 1


def test_kid_grows_with_distance_and_subsets_are_halves():
    real = normal(200, 8, 0)
    found = [kid(real, normal(100, 8, 1, shift)) for shift in (0.0, 0.7, 1.4)]
    assert found[0]["value"] < found[1]["value"] < found[2]["value"]
    assert found[2]["value"] > 3 * found[2]["spread"] > 0
    assert all(each["subset"] == 50 and each["subsets"] == 100 for each in found)
    assert kid(normal(3000, 2, 0), normal(3000, 2, 1), subsets=2)["subset"] == 1000


# --- neighbourhoods ------------------------------------------------------------------------------
def test_a_point_is_not_its_own_neighbour_and_manifolds_have_extremes():
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert radii(points, 1).tolist() == [1, 1, 2, 4]
    assert radii(points, 2).tolist() == [3, 2, 3, 6]
    real = normal(60, 4, 0)
    same = manifold(real, real)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    far = manifold(real, real + np.float32(100))
    assert (far["precision"], far["recall"], far["density"], far["coverage"]) == (0, 0, 0, 0)


def test_manifold_tells_a_lost_mode_from_bad_images_and_what_is_one_distribution():
    left, right = normal(100, 4, 0), normal(100, 4, 1, shift=50)
    both = np.concatenate([left, right])
    lost = manifold(both, np.concatenate([normal(200, 4, 2)]))
    assert lost["precision"] > 0.8 and lost["recall"] < 0.6 and lost["coverage"] < 0.6
    extra = manifold(np.concatenate([left, normal(100, 4, 3)]), both)
    assert extra["recall"] > 0.8 and extra["precision"] < 0.6
    found = manifold(normal(400, 4, 0), normal(900, 4, 1))
    assert found["n"] == 400
    assert found["density"] == pytest.approx(1, abs=0.15)
    assert found["coverage"] == pytest.approx(1 - 0.5**5, abs=0.05)  # Naeem et al., lemma 2
    assert found["precision"] == pytest.approx(found["recall"], abs=0.1)


# --- together ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("count", "first", "words"),
    [(16, "KID", "cannot fill"), (31, "KID", "fewer than twice"), (32, "FD", "at least twice")],
)
def test_the_number_to_quote_depends_on_how_many_images(count, first, words):
    found = compare(normal(500, 16, 0), normal(count, 16, 1), Space("domain", 16))
    assert found.first == first and words in found.reason
    keys = list(found.to_dict())
    assert keys[0] == f"{first} (domain)" and "FD (domain)" in keys and "KID (domain)" in keys
    assert which_first(count, 500, 16) == (first, found.reason)


@pytest.mark.parametrize("space", ["inception", "domain", "squeezenet", "inception-unverified"])
def test_fid_is_said_of_inception_alone(space):
    name = "FID" if space == "inception" else f"FD ({space})"
    found = compare(normal(40, 4, 0), normal(40, 4, 1), Space(space, 4))
    row = found.to_dict()
    assert name in row and ("FID" in row) == (space == "inception")
    assert row[f"KID ({space})"] == found.kid["value"]
    assert row[f"precision ({space})"] == found.manifold["precision"]
    assert row["features"] == space and row["features_sha256"] == "0" * 64
    assert Space(space, 4).label("FD") == found.space.label("FD") == name


def test_rows_are_json_and_a_function_of_the_seed():
    sides = normal(20, 16, 0), normal(30, 16, 1)
    row = compare(*sides, Space("domain", 16), seed=4).to_dict()
    assert row["FD (domain) spread"] is None and row["seed"] == 4
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert compare(*sides, Space("domain", 16), seed=4).to_dict() == row
    other = compare(*sides, Space("domain", 16), seed=5).to_dict()
    assert other["KID (domain)"] != row["KID (domain)"]
    assert other["FD (domain)"] == row["FD (domain)"]


def test_points_that_tell_nothing_are_refused():
    with pytest.raises(TooFewImagesError, match="fake: found 7 images, expected at least 8"):
        compare(normal(20, 4, 0), normal(7, 4, 1), Space("domain", 4))
    with pytest.raises(ValueError, match=r"expected \(N, 5\)"):
        check_points(normal(20, 4, 0), 5, "real")
    broken = normal(20, 4, 0)
    broken[3, 1] = np.inf
    with pytest.raises(ValueError, match="real: features are not finite"):
        compare(broken, normal(20, 4, 1), Space("domain", 4))
    with pytest.raises(TooFewImagesError, match="more than 5"):
        manifold(normal(5, 4, 0), normal(20, 4, 1))
