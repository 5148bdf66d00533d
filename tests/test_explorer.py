"""The explorer: its model by numbers and call counts, its view without a browser."""

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from traitlets import TraitError

from dtgan_core.images import to_png
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.explorer.gallery import FULL_COLOUR, Gallery
from dtgan_lab.explorer.model import ALONE_RADIUS, RANDOM, SAME, UPLOAD, ExplorerModel
from dtgan_lab.explorer.view import Explorer, as_png, explore, free_folder
from dtgan_lab.placement import cut_out, painted_places, placed, to_cells
from tests.core_fixtures import SIZE, picture, tiny_config, tiny_store, write_tiny_export


def cell(product: int, defect: int) -> Tensor:
    store = tiny_store()
    chosen = (store.products == product) & (store.defects == defect)
    return store.to_float(chosen.nonzero().flatten())


def gallery() -> Gallery:
    return Gallery(
        {"A": cell(0, 0), "B": cell(1, 0)[:2]},
        {"Scratches": torch.cat([cell(0, 1), cell(1, 1)]), "Spots": cell(2, 2)},
        {"A": ["a0.png", "a1.png", "a2.png"]},
    )


@pytest.fixture
def model(synth: Synthesizer) -> ExplorerModel:
    return ExplorerModel({"tiny": synth}, gallery())


@contextmanager
def counted(synth: Synthesizer) -> Iterator[dict[str, int]]:
    """How many images go through each part of the networks."""
    parts = {
        "encoder": synth.G.encoder,
        "background": synth.G.background_decoder[0],
        "defect": synth.G.defect_decoder[0],
        "E": synth.E.from_image,
        "M": synth.M.shared,
    }
    counts = dict.fromkeys(parts, 0)

    def counter(name: str) -> Callable[..., None]:
        def count(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
            counts[name] += len(inputs[0])

        return count

    hooks = [module.register_forward_hook(counter(name)) for name, module in parts.items()]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


# --- what is painted -----------------------------------------------------------------------------
def test_its_pictures_are_those_of_the_synthesizer(model, synth):
    expected = synth.reference_guided(cell(0, 0)[:1], cell(0, 1)[:1], "Scratches")
    assert torch.equal(model.result, expected)
    assert not model.failed and "loaded" in model.status
    assert model.defects == ["Scratches", "Spots"]
    assert model.set(product="B", part=1, defect="Spots", map_source=RANDOM, map_number=7)
    expected = synth.latent_guided(cell(1, 0)[1:2], "Spots", seed=0, first=7)
    assert torch.equal(model.result, expected)


def test_the_place_is_where_the_defect_is_painted_until_it_is_moved_or_cut_out(model, synth):
    background = synth.background(cell(0, 0)[:1])
    guide = synth.reference_guides(cell(0, 1)[:1], "Scratches")
    start = painted_places(synth.paint(background, guide) - synth.without_defect(background))
    assert (model.y, model.x) == pytest.approx(tuple(((start[0] + 0.5) / SIZE * 100).tolist()))
    assert model.recipe()["moved"] is False
    assert model.set(x=25.0, y=75.0, degrees=30.0, size=1.5, mirror=True)
    assert model.recipe()["moved"] is True
    target = to_cells(torch.tensor([[0.75 * SIZE - 0.5, 0.25 * SIZE - 0.5]]), SIZE, 16)
    c = placed(guide.c, to_cells(start, SIZE, 16), target, 30.0, 1.5, True)
    assert torch.allclose(model.result, synth.paint(background, Guide(c, guide.s)), atol=1e-5)
    assert model.set(moved=False, degrees=0.0, size=1.0, mirror=False)
    assert torch.equal(model.result, synth.paint(background, guide))
    assert model.set(alone=True)
    alone = Guide(cut_out(guide.c, to_cells(start, SIZE, 16), ALONE_RADIUS), guide.s)
    assert torch.equal(model.result, synth.paint(background, alone))


def test_styles_are_taken_from_elsewhere_and_blended(model, synth):
    background = synth.background(cell(0, 0)[:1])
    c, own = synth.reference_guides(cell(0, 1)[:1], "Scratches")

    def painted(s: Tensor) -> Tensor:
        return synth.paint(background, Guide(c, s))

    random = synth.latent_guides("Scratches", 0, [3, 9]).s
    assert model.set(style_source=RANDOM, style_number=3)
    assert torch.allclose(model.result, painted(random[:1]), atol=1e-5)
    assert model.set(blend=0.25, second_style=9)
    assert torch.allclose(
        model.result, painted(torch.lerp(random[:1], random[1:], 0.25)), atol=1e-5
    )
    assert model.set(blend=1.0)
    assert torch.allclose(model.result, painted(random[1:]), atol=1e-5)
    assert model.set(blend=0.0, style_source="picture", style_number=4)
    other = synth.reference_guides(cell(1, 1)[1:2], "Scratches").s
    assert torch.allclose(model.result, painted(other), atol=1e-5)
    assert model.set(style_source=SAME)
    assert torch.equal(model.result, painted(own))


# --- what it costs -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, values",
    [
        ("x", (10.0, 20.0, 30.0)),
        ("y", (1.0, 99.0, 50.0)),
        ("degrees", (5.0, 90.0, -180.0)),
        ("size", (0.5, 1.5, 2.0)),
        ("mirror", (True, False, True)),
        ("alone", (True, False, True)),
        ("blend", (0.1, 0.2, 0.3)),
    ],
)
def test_a_moved_slider_decodes_one_defect_and_nothing_else(name, values, model, synth):
    with counted(synth) as counts:
        for value in values:
            assert model.set(**{name: value})
    asked = int(name == "blend")  # for its second style, once
    assert counts == {"encoder": 0, "background": 0, "defect": 3, "E": 0, "M": asked}


def test_a_background_is_encoded_and_decoded_once_in_bounded_memory(model, synth, monkeypatch):
    with counted(synth) as counts:
        model.set(product="B")
        assert (counts["encoder"], counts["background"]) == (1, 1)
        # Normal (render decodes one empty row), where the defect lies there, the picture
        assert (counts["E"], counts["defect"]) == (0, 3)
        model.set(product="A")
        model.set(product="B")
    assert (counts["encoder"], counts["background"], counts["defect"]) == (1, 1, 5)
    # and what is remembered is bounded
    monkeypatch.setattr("dtgan_lab.explorer.model.FORGET_AFTER", 5)
    for number in range(12):
        assert model.set(map_source=RANDOM, map_number=number)
    assert len(model._memory) <= 5


# --- errors are told, and change nothing ---------------------------------------------------------
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"product": "Z"}, "unknown product 'Z'; expected one of ['A', 'B']"),
        ({"defect": "Normal"}, "unknown defect 'Normal'"),
        ({"x": 120.0}, "'x'"),
        ({"x": float("nan")}, "x is nan; expected a number"),
        ({"part": -1}, "'part'"),
        ({"product": None}, "'product'"),
        ({"mirror": "yes"}, "'mirror'"),
        ({"map_source": "elsewhere"}, "map_source"),
        ({"checkpoint": "none"}, "unknown checkpoint 'none'; expected one of tiny"),
        ({"colour": 1}, "'colour' is no setting"),
        ({"status": "x"}, "'status' is no setting"),
    ],
)
def test_a_bad_setting_is_told_and_changes_nothing(changes, message, model):
    before, picture_before = model.recipe(), model.result
    assert not model.set(y=3.0, **changes)
    assert model.failed and message in model.status
    assert model.recipe() == before and torch.equal(model.result, picture_before)
    assert model.set(y=3.0)
    assert (model.failed, model.status) == (False, "")


def test_a_checkpoint_that_does_not_fit_is_told(synth, tmp_path):
    bare = write_tiny_export(tmp_path / "a", tiny_config("a"))
    (tmp_path / "empty").mkdir()
    models = {"tiny": synth, "StarGAN": bare, "empty": tmp_path / "empty"}
    model = ExplorerModel(models, gallery())
    assert not model.set(checkpoint="StarGAN")
    assert "configuration (a) has no defect map" in model.status
    assert not model.set(checkpoint="empty")
    assert "expected card.json" in model.status and model.checkpoint == "tiny"
    wide = Gallery({"A": torch.zeros(1, 1, 64, 64)}, {"Spots": torch.zeros(1, 1, 64, 64)})
    with pytest.raises(ValueError, match=r"takes pictures of shape \(1, 32, 32\)"):
        ExplorerModel({"tiny": synth}, wide)
    other = Gallery({"A": cell(0, 0)}, {"Dents": cell(0, 1)})
    with pytest.raises(ValueError, match="and not Dents"):
        ExplorerModel({"tiny": synth}, other)


# --- pictures of the user's own ------------------------------------------------------------------
def test_an_uploaded_part_and_reference_are_used(model, synth):
    part, reference = picture(2, 0, 9), picture(1, 2, 9)
    assert model.set(defect="Spots")
    assert model.upload("part", "mine.png", to_png(part))
    assert model.product == UPLOAD and "mine.png is read" in model.status
    assert model.upload("reference", "spot.png", to_png(reference))
    assert model.map_source == UPLOAD

    def as_input(image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1

    expected = synth.reference_guided(as_input(part), as_input(reference), "Spots")
    assert torch.equal(model.result, expected)
    assert model.upload("part", "other.png", to_png(part[::-1]))
    flipped = synth.reference_guided(as_input(part[::-1].copy()), as_input(reference), "Spots")
    assert torch.equal(model.result, flipped)  # the second upload, not the remembered first
    assert model.products == ["A", "B", UPLOAD]


# --- the panel -----------------------------------------------------------------------------------
def test_the_panel_shows_part_source_result_and_change(model):
    shown = model.pictures()
    assert list(shown) == ["the part", "the defect comes from", "the result", "the change"]
    assert np.array_equal(shown["the part"], to_uint8(cell(0, 0)[:1])[0, :, :, 0])
    assert np.array_equal(shown["the defect comes from"], to_uint8(cell(0, 1)[:1])[0, :, :, 0])
    assert np.array_equal(shown["the result"], to_uint8(model.result)[0, :, :, 0])
    difference = shown["the result"].astype(int) - shown["the part"]
    red, blue = (shown["the change"][..., k].astype(int) for k in (0, 2))
    assert (red >= blue)[difference > 4].all() and (red <= blue)[difference < -4].all()
    assert (shown["the change"][difference == 0] > 240).all()
    model.set(overlay=True)  # colours what changed
    plain, overlaid = shown["the result"], model.pictures()["the result"]
    assert overlaid.shape == (SIZE, SIZE, 3)
    same = difference == 0
    assert np.array_equal(overlaid[same], plain[same][:, None].repeat(3, axis=1))
    assert np.abs(difference).max() > FULL_COLOUR / 4  # else the next line would say nothing
    strongest = np.abs(difference) == np.abs(difference).max()
    assert np.ptp(overlaid[strongest].astype(int), axis=1).min() > 10
    model.set(map_source=RANDOM)
    assert model.pictures()["the defect comes from"].shape == (SIZE, SIZE, 3)


# --- keeping -------------------------------------------------------------------------------------
def test_what_is_kept_is_exported_with_a_manifest(model, synth, tmp_path):
    model.set(x=20.0, y=30.0, overlay=True)
    model.keep()
    first = model.result
    model.set(map_source=RANDOM, map_number=3, product="B")
    model.keep()
    folder = tmp_path / "new" / "kept"
    table = model.export(folder)
    assert table is not None and "2 picture(s)" in model.status
    read = pd.read_csv(folder / "manifest.csv")
    assert read["path"].tolist() == ["images/000.png", "images/001.png"]
    assert np.array_equal(
        np.asarray(Image.open(folder / "images/000.png")), to_uint8(first)[0, :, :, 0]
    )
    mask = np.asarray(Image.open(folder / "approximate_masks/001.png"))
    assert set(np.unique(mask)) <= {0, 255}
    row = read.iloc[0]
    assert (row["background"], row["x"], row["map_source"]) == ("a0.png", 20.0, "picture")
    assert read.iloc[1]["background"] == "B 0"
    assert read.iloc[1]["reference"] == "draw 3 of seed 0"
    assert set(read["checkpoint_sha256"]) == {synth.checkpoint_hash}
    again = ExplorerModel({"tiny": synth}, gallery())
    kept = table.astype(object).iloc[0]
    assert again.set(**{name: kept[name] for name in again.recipe()})
    assert torch.equal(again.result, first)
    model.keep()
    assert model.export(folder) is not None  # the same session goes on in its folder
    assert len(pd.read_csv(folder / "manifest.csv")) == 3
    assert len(list((folder / "images").iterdir())) == 3


def test_an_export_refuses_a_folder_that_is_not_its_own(model, tmp_path):
    assert model.export(tmp_path / "kept") is None
    assert model.failed and "Nothing is kept yet" in model.status
    assert not (tmp_path / "kept").exists()
    model.keep()
    (tmp_path / "notes.txt").write_text("mine")
    assert model.export(tmp_path) is None
    assert "is not empty" in model.status
    assert model.export(tmp_path / "notes.txt" / "kept") is None  # below a file
    assert model.failed and "notes.txt" in model.status
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_gallery_of_a_data_set_and_one_without_pictures_of_a_defect(synth, dataset):
    found = Gallery.of_dataset(dataset, synth, a_cell=2)
    assert {name: len(x) for name, x in found.parts.items()} == {"A": 2, "B": 2, "C": 2}
    assert {name: len(x) for name, x in found.references.items()} == {"Scratches": 6, "Spots": 6}
    assert found.part_names["B"][1] == "test/B/Normal/01.png"
    assert found.reference_names["Spots"][2] == "test/B/Spots/00.png"
    assert ExplorerModel({"tiny": synth}, found).set(map_number=5)
    model = ExplorerModel({"tiny": synth}, Gallery({"A": cell(0, 0)}, {}))
    assert (model.defect, model.map_source) == ("Scratches", RANDOM)
    with pytest.raises(ValueError, match="1 checkpoints and parts of 0 products"):
        ExplorerModel({"tiny": synth}, Gallery({}, {}))


# --- the view ------------------------------------------------------------------------------------
@pytest.fixture
def view(model: ExplorerModel, tmp_path: Path) -> Explorer:
    return explore(model, tmp_path / "kept")


def test_a_moved_control_changes_result_and_change_in_place(view):
    before = {title: image.value for title, image in view.images.items()}
    panel = dict(view.images)
    sent: list[str] = []
    for title, image in view.images.items():
        image.observe(lambda _, title=title: sent.append(title), "value")
    view.controls["x"].value = 5.0
    assert view.model.x == 5.0 and view.model.moved
    assert sent == ["the result", "the change"]
    assert all(view.images[title] is image for title, image in panel.items())
    assert view.images["the result"].value != before["the result"]
    assert Image.open(io.BytesIO(view.images["the result"].value)).size == (192, 192)
    view.buttons["home"].click()
    assert view.images["the result"].value == before["the result"]
    assert not view.model.moved


def test_a_fresh_view_has_fixed_sizes_and_native_labelled_controls(view):
    for image in (*view.images.values(), *view.kept):
        assert image.layout.width.endswith("px") and image.layout.height.endswith("px")
    assert view.status.layout.height.endswith("px")
    # The place is 53.67 %, its slider shows 53.5: nobody has asked for that.
    assert view.controls["y"].value != view.model.y
    assert abs(view.controls["y"].value - view.model.y) <= 0.25
    assert not view.model.moved
    kinds = {type(control).__name__ for control in view.controls.values()}
    assert kinds == {"Dropdown", "IntSlider", "FloatSlider", "Checkbox"}
    assert all(control.description for control in view.controls.values())
    assert set(view.controls) <= set(view.model.recipe()) | {"overlay"}
    assert "kernel" in repr(view)


def test_choices_follow_the_model(view):
    view.controls["part"].value = 2
    view.controls["product"].value = "B"
    assert view.controls["part"].max == 1 and view.controls["part"].value == 1
    view.controls["map_source"].value = RANDOM
    assert view.controls["map_number"].max == 99
    assert view.controls["style_number"].disabled  # the defect's own style has no number
    view.controls["style_source"].value = RANDOM
    assert not view.controls["style_number"].disabled
    assert view.controls["second_style"].disabled
    view.controls["blend"].value = 0.5
    assert not view.controls["second_style"].disabled
    assert view.model.blend == 0.5


def uploaded(name: str, data: bytes) -> tuple[dict[str, object], ...]:
    """What a FileUpload holds when a file was chosen."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    file = {"name": name, "type": "image/png", "size": len(data), "last_modified": when}
    return ({**file, "content": memoryview(data)},)


def test_an_upload_appears_and_a_bad_one_is_told_in_the_status_line(view):
    before = view.model.result
    for data in (b"", b"no picture", to_png(np.zeros((40, 40), "u1"))[:-30]):
        view.uploads["part"].set_trait("value", uploaded("<b>.png", data))
        assert "&lt;b&gt;.png: cannot be decoded" in view.status.value
        assert "#b00020" in view.status.value and view.model.failed
        assert torch.equal(view.model.result, before) and view.model.products == ["A", "B"]
    view.uploads["part"].set_trait("value", uploaded("good.png", to_png(picture(2, 0, 1))))
    assert UPLOAD in view.controls["product"].options
    assert view.controls["product"].value == UPLOAD
    assert "good.png is read" in view.status.value and "#b00020" not in view.status.value


def test_names_are_text_and_never_markup(synth, tmp_path):
    name = "<img src=x onerror=alert(1)>"
    shown = Gallery({name: cell(0, 0)}, {"Spots": cell(2, 2)}, {name: [name] * 3})
    view = explore(ExplorerModel({name: synth}, shown), tmp_path / name.replace("/", ""))

    def raw() -> list[str]:
        """Names that the page would take for markup."""
        todo, found = [view], []
        while todo:
            widget = todo.pop()
            todo += getattr(widget, "children", ())
            markup = isinstance(widget, widgets.HTML | widgets.HTMLMath)
            found += [widget.value] if markup and "<img" in widget.value else []
            found += ["description"] if getattr(widget, "description_allow_html", False) else []
        return found

    assert name in view.status.value.replace("&lt;", "<").replace("&gt;", ">") and not raw()
    view.uploads["part"].set_trait("value", uploaded(name, to_png(picture(2, 0, 1))))
    assert "onerror" in view.status.value and not raw()
    for button in ("keep", "export"):
        view.buttons[button].click()
        assert not raw()
    assert not view.model.set(product=f"{name}!") and not raw()


def test_a_hundred_hasty_gestures_end_where_the_last_one_says(view):
    random = np.random.default_rng(0)
    for _ in range(100):
        control = view.controls[str(random.choice(list(view.controls)))]
        options = getattr(control, "options", None)
        with contextlib.suppress(TraitError):  # what a slider itself refuses
            if options:
                control.value = options[random.integers(len(options))]
            else:
                control.value = type(control.value)(random.choice([-1e9, 1e9, 0.0, 1.0]))
    view.controls["x"].value = 25.0
    view.buttons["keep"].click()
    assert view.model.x == view.controls["x"].value == 25.0
    assert view.model.favourites[-1].recipe["x"] == 25.0
    assert np.isfinite(view.model.result.numpy()).all()


def test_keep_and_export_by_their_buttons(view):
    view.buttons["export"].click()
    assert "Nothing is kept yet" in view.status.value
    view.buttons["keep"].click()
    assert Image.open(io.BytesIO(view.kept[0].value)).size == (64, 64)
    view.buttons["export"].click()
    assert (view.folder / "manifest.csv").is_file()
    assert "1 picture(s)" in view.status.value


def test_a_used_folder_is_not_overwritten_and_a_png_has_hard_edges(tmp_path):
    assert free_folder(tmp_path / "kept") == tmp_path / "kept"
    for name in ("kept", "kept-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    assert free_folder(tmp_path / "kept") == tmp_path / "kept-3"
    small = np.array([[0, 255], [100, 50]], np.uint8)
    large = np.asarray(Image.open(io.BytesIO(as_png(small, 4))))
    assert large.tolist() == np.kron(small, np.ones((2, 2), np.uint8)).tolist()
