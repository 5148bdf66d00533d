"""The style explorer: a thin view of ipywidgets over `model.ExplorerModel`.

    from dtgan_lab.explorer.view import explore
    explore(model, "build/favourites")        # the last line of a cell

Everything is reached by the keyboard: Tab from control to control, arrow keys on a slider.  A moved
slider repaints the result and its change in place; nothing else on the page is touched.  While a
painting is under way the page itself holds a slider's values back, all but the last.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from dtgan_lab.explorer.gallery import flat
from dtgan_lab.explorer.model import PICTURE, RANDOM, SAME, ExplorerModel

PICTURE_SIDE = 192  # pixels on the page
KEPT_SIDE, KEPT_SHOWN = 64, 12
CONTROL = {"width": "300px"}
NAMED = {"description_width": "96px"}


def as_png(picture: np.ndarray, side: int) -> bytes:
    """uint8 (H, W) or (H, W, 3) -> a PNG of `side` pixels, hard-edged, packed for speed."""
    buffer = io.BytesIO()
    large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
    large.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Explorer(widgets.VBox):
    """The panel, its controls by their settings' names, and what was kept."""

    def __init__(self, model: ExplorerModel, folder: str | Path) -> None:
        """Build the view; Export adds a number to `folder` when it holds something already."""
        self.model, self.folder = model, free_folder(Path(folder))
        self._shown: dict[str, np.ndarray] = {}
        self._showing = False
        self.controls = _controls(model)
        self.buttons = {
            name: widgets.Button(description=text, icon=icon, layout=CONTROL)
            for name, (text, icon) in _BUTTONS.items()
        }
        self.uploads = {"part": _upload("Your own part"), "reference": _upload("Your own defect")}
        self.images = {title: _image(PICTURE_SIDE) for title in model.pictures()}
        self.status = widgets.HTML(layout={"height": "44px", "width": "100%"})
        self.kept = [_image(KEPT_SIDE) for _ in range(KEPT_SHOWN)]
        for name, control in self.controls.items():
            control.observe(self._changed(name), "value")
        for role, upload in self.uploads.items():
            upload.observe(self._uploaded(role), "value")
        self.buttons["home"].on_click(lambda _: self._ask(**_HOME))
        self.buttons["keep"].on_click(lambda _: self._keep())
        self.buttons["export"].on_click(lambda _: self._export())
        super().__init__(self._arranged(), layout={"width": "980px"})
        self.flush()

    def __repr__(self) -> str:  # what a page without a kernel shows in its place
        return (
            "The explorer needs a running kernel; the still picture below shows what it looks like."
        )

    def _arranged(self) -> list[widgets.Widget]:
        """Pictures above, controls below in four groups, one line for messages, favourites."""
        panels = [
            widgets.VBox([widgets.Label(title), image], layout={"width": f"{PICTURE_SIDE + 24}px"})
            for title, image in self.images.items()
        ]
        own = {"part": [self.uploads["part"]], "defect": [self.uploads["reference"]]}
        own["place"] = [self.buttons["home"]]
        groups = [
            widgets.VBox(
                [
                    widgets.HTML(f"<b>{title}</b>"),
                    *(self.controls[name] for name in names),
                    *own.get(key, []),
                ],
                layout={"width": "316px"},
            )
            for key, (title, names) in _GROUPS.items()
        ]
        first = widgets.VBox(groups[:2], layout={"width": "316px"})
        return [
            widgets.HBox(panels, layout={"height": f"{PICTURE_SIDE + 44}px"}),
            self.status,
            widgets.HBox([first, *groups[2:]]),
            widgets.HBox(
                [self.buttons["keep"], self.buttons["export"]], layout={"margin": "12px 0 4px 0"}
            ),
            widgets.HBox(self.kept, layout={"height": f"{KEPT_SIDE + 8}px"}),
        ]

    # --- from the page to the model --------------------------------------------------------------

    def _changed(self, name: str) -> Callable[[Any], None]:
        def react(change: Any) -> None:
            if not self._showing:  # else it was this view that moved the control
                self._ask(**{name: change["new"]})

        return react

    def _ask(self, **changes: Any) -> None:
        self.model.set(**changes)
        self.flush()

    def _uploaded(self, role: str) -> Callable[[Any], None]:
        def react(change: Any) -> None:
            for file in change["new"]:
                self.model.upload(role, file["name"], bytes(file["content"]))
            self.flush()

        return react

    def _keep(self) -> None:
        self.model.keep()
        newest = self.model.favourites[-KEPT_SHOWN:]
        for image, favourite in zip(self.kept, newest, strict=False):
            image.value = as_png(flat(favourite.image), KEPT_SIDE)
            image.layout.visibility = "visible"
        self._show_status()

    def _export(self) -> None:
        self.model.export(self.folder)
        self._show_status()

    # --- from the model to the page --------------------------------------------------------------

    def flush(self) -> None:
        """Bring pictures and controls up to date; what is unchanged is not packed again."""
        for title, picture in self.model.pictures().items():
            if title not in self._shown or not np.array_equal(self._shown[title], picture):
                self.images[title].value = as_png(picture, PICTURE_SIDE)
                self._shown[title] = picture
        self._showing = True
        try:
            self._show_choices()
            for name, control in self.controls.items():
                control.value = _shown_value(control, getattr(self.model, name))
        finally:
            self._showing = False
        self._show_status()

    def _show_choices(self) -> None:
        """What can be chosen depends on the part, the defect and on uploads."""
        model, controls = self.model, self.controls
        for name, options in (
            ("product", model.products),
            ("defect", model.defects),
            ("map_source", model.map_sources),
            ("style_source", [SAME, *(s for s in model.map_sources if s in (PICTURE, RANDOM))]),
        ):
            if list(controls[name].options) != options:
                controls[name].options = options
        for name in ("part", "map_number", "style_number"):
            controls[name].max = model.count(name) - 1
            controls[name].disabled = model.count(name) == 1
        controls["second_style"].disabled = model.blend == 0

    def _show_status(self) -> None:
        colour = "#b00020" if self.model.failed else "#444444"
        text = html.escape(self.model.status) or "&nbsp;"
        self.status.value = f'<span style="color:{colour}">{text}</span>'


_BUTTONS = {
    "home": ("Back to its own place", "undo"),
    "keep": ("Keep this picture", "heart"),
    "export": ("Export what was kept", "download"),
}
_HOME = {"moved": False, "degrees": 0.0, "size": 1.0, "mirror": False}
_GROUPS = {
    "part": ("1 The part", ["checkpoint", "product", "part"]),
    "defect": ("2 The defect", ["defect", "map_source", "map_number"]),
    "place": ("3 Its place", ["x", "y", "degrees", "size", "mirror", "alone"]),
    "style": ("4 Its style", ["style_source", "style_number", "blend", "second_style", "overlay"]),
}


def _controls(model: ExplorerModel) -> dict[str, Any]:
    """A control for every setting that the user changes directly, with the model's values."""

    def slider(label: str, low: float, high: float, step: float, unit: str = "") -> Any:
        kind = widgets.IntSlider if isinstance(step, int) else widgets.FloatSlider
        return kind(
            min=low,
            max=high,
            step=step,
            description=label,
            readout_format=("d" if isinstance(step, int) else ".2f" if step < 0.1 else ".1f"),
            tooltip=unit or label,
            style=NAMED,
            layout=CONTROL,
        )

    def choice(label: str, options: list[str], value: str) -> Any:
        return widgets.Dropdown(
            options=options, value=value, description=label, style=NAMED, layout=CONTROL
        )

    def tick(label: str, more: str = "") -> Any:
        return widgets.Checkbox(
            description=label, tooltip=more or label, indent=False, layout=CONTROL
        )

    return {
        "checkpoint": choice("model", list(model.checkpoints), model.checkpoint),
        "product": choice("product", model.products, model.product),
        "part": slider("which one", 0, 1, 1),
        "defect": choice("kind", model.defects, model.defect),
        "map_source": choice("taken from", model.map_sources, model.map_source),
        "map_number": slider("which one", 0, 1, 1),
        "x": slider("left to right", 0.0, 100.0, 0.5, "% of the part's width"),
        "y": slider("top to bottom", 0.0, 100.0, 0.5, "% of the part's height"),
        "degrees": slider("turn", -180.0, 180.0, 5.0, "degrees, counter-clockwise"),
        "size": slider("size", 0.5, 2.0, 0.05, "1 is as it was"),
        "mirror": tick("mirror it"),
        "alone": tick("this defect alone", "cut off what lies around it"),
        "style_source": choice("style", [SAME, RANDOM], model.style_source),
        "style_number": slider("which one", 0, 1, 1),
        "blend": slider("go over to ...", 0.0, 1.0, 0.05, "0: the first style, 1: the second"),
        "second_style": slider("... this style", 0, 99, 1, "a random style"),
        "overlay": tick("colour what changed", "red is brighter, blue is darker"),
    }


def _shown_value(control: Any, value: Any) -> Any:
    """A slider that shows "about there" must not set the model to its own rounded value."""
    if isinstance(control, widgets.FloatSlider):
        return min(max(round(value / control.step) * control.step, control.min), control.max)
    return value


def _upload(label: str) -> widgets.FileUpload:
    return widgets.FileUpload(accept="image/*", multiple=False, description=label, layout=CONTROL)


def _image(side: int) -> widgets.Image:
    """A picture of a fixed size, so that nothing moves when it changes."""
    empty = as_png(np.full((1, 1), 255, np.uint8), 1)
    size = f"{side}px"
    return widgets.Image(value=empty, layout={"width": size, "height": size, "flex": "0 0 auto"})


def free_folder(folder: Path) -> Path:
    """The folder itself if it is new or empty, else the first free one of folder-2, folder-3 ..."""
    found, number = folder, 1
    while found.exists() and any(found.iterdir()):
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def explore(model: ExplorerModel, folder: str | Path = "build/favourites") -> Explorer:
    """The explorer, ready to stand as the last line of a cell."""
    return Explorer(model, folder)
