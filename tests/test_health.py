"""What training watches of the defect map (the kit's reading 8)."""

import pytest
import torch
from torch import Tensor

from dtgan_core.networks import Guide
from dtgan_core.step import Fakes, defect_map_health


def constructed(c1: list[float], c2: list[float], s1: list[float]) -> Fakes:
    """Fakes with defect maps and styles of one number an image, all images kept but the first."""
    n = len(c1)

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values).view(n, 1, 1, 1)

    nothing = Fakes._make([None] * len(Fakes._fields))
    return nothing._replace(
        guide=Guide(column(c1), torch.tensor(s1).view(n, 1)),
        second=Guide(column(c2)[1:], torch.zeros(n - 1, 1)),
        kept=torch.arange(1, n),
    )


def test_health_of_constructed_guides():
    fakes = constructed(c1=[100.0, 2.0, -4.0], c2=[0.0, 5.0, -4.0], s1=[100.0, 1.0, 3.0])
    c_rec = torch.tensor([0.0, 1.0, -2.0]).view(3, 1, 1, 1)
    s_rec = torch.tensor([[0.0], [1.0], [1.0]])
    health = defect_map_health(fakes, c_rec, s_rec)
    # of the last two: mean |c| = (2 + 4) / 2 = 3; |c - c_rec| = (1 + 2) / 2, over 3: 0.5
    assert float(health["c_abs"]) == pytest.approx(3.0)
    assert float(health["c_rel_err"]) == pytest.approx(0.5)
    # |c1 - c2| = (3 + 0) / 2 = 1.5, over 3: 0.5
    assert float(health["c_spread"]) == pytest.approx(0.5)
    # |s - s_rec| = (0 + 2) / 2 = 1, mean |s| = 2: 0.5
    assert float(health["s_rel_err"]) == pytest.approx(0.5)


def test_health_sees_a_collapsed_map():
    fakes = constructed(c1=[0.0, 7.0, 7.0], c2=[0.0, 7.0, 7.0], s1=[0.0, 1.0, 1.0])
    health = defect_map_health(fakes, fakes.guide.c, fakes.guide.s)
    assert float(health["c_spread"]) == 0.0
    assert float(health["c_rel_err"]) == 0.0
    shrunk = constructed(c1=[0.0] * 3, c2=[0.0] * 3, s1=[1.0] * 3)
    health = defect_map_health(shrunk, torch.ones(3, 1, 1, 1), torch.ones(3, 1))
    assert float(health["c_abs"]) == 0.0
    assert all(value.isfinite() for value in health.values())
