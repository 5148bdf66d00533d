"""The explorer without its widgets: what is chosen, what it looks like, what was kept.

    model = ExplorerModel({"laptop": "notebooks/checkpoints/synthetic-sdi-laptop"}, gallery)
    model.set(product="B", defect="Spots", map_source="random", map_number=4)
    model.set(x=30.0, y=60.0, degrees=20.0)     # moves the defect: one decode of the defect alone
    model.pictures()                            # the four pictures of the panel
    model.keep(); model.export("build/favourites")

A picture is a function of the settings (`ExplorerModel.recipe`) and of nothing that went before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from traitlets import Bool, Enum, Float, HasTraits, Int, TraitError, Unicode

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.files import shown
from dtgan_core.images import image_to_array
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Background, Synthesizer, to_uint8
from dtgan_lab.explorer.gallery import Favourite, Gallery, name_of, panel_pictures, write_favourites
from dtgan_lab.placement import cut_out, painted_places, placed, to_cells

RANDOM, PICTURE, UPLOAD, SAME = "random", "picture", "your picture", "as the defect"
ALONE_RADIUS = 4.0  # cells around a defect that are kept when it is cut out
FORGET_AFTER = 64  # backgrounds and guides that are remembered
Made = TypeVar("Made")


class _Part(NamedTuple):
    """A background, prepared once."""

    background: Background
    plain: Tensor
    name: str


class _Defect(NamedTuple):
    """A defect map and its own style, and the picture it comes from, if any."""

    guide: Guide
    picture: Tensor | None
    name: str


class ExplorerModel(HasTraits):
    """Settings, validated; change them by `set`. `result`, (1, ch, H, W) in [-1, 1], is painted."""

    checkpoint = Unicode()  # its name
    product = Unicode()  # of the part, or "your picture"
    part = Int(0, min=0)  # its number in the gallery
    defect = Unicode()  # target domain, not the anchor
    map_source = Enum([RANDOM, PICTURE, UPLOAD], PICTURE)  # where the defect map comes from
    map_number = Int(0, min=0)  # of the draw, or of the picture in the gallery
    moved = Bool(False)  # whether x and y hold; else the defect stays where it is in its source
    x = Float(50.0, min=0.0, max=100.0)  # place of the defect, % of the part's width
    y = Float(50.0, min=0.0, max=100.0)  # the same of its height, from the top
    degrees = Float(0.0, min=-180.0, max=180.0)  # turn, counter-clockwise
    size = Float(1.0, min=0.25, max=4.0)  # growth
    mirror = Bool(False)  # swap left and right of the defect
    alone = Bool(False)  # cut the map off beyond `ALONE_RADIUS` cells around the defect
    style_source = Enum([SAME, RANDOM, PICTURE], SAME)
    style_number = Int(0, min=0)  # as `map_number`
    second_style = Int(1, min=0)  # number of a random style to go over to ...
    blend = Float(0.0, min=0.0, max=1.0)  # ... by this share
    overlay = Bool(False)  # lay the change in colours over the result
    status = Unicode()  # the last message, for people
    failed = Bool(False)  # whether it is an error; the settings are then those before

    def __init__(
        self, checkpoints: Mapping[str, str | Path | Synthesizer], gallery: Gallery, seed: int = 0
    ) -> None:
        """Load the first checkpoint, name -> folder or model, and paint the first picture.

        CheckpointError: a folder holds no export. ValueError: model and gallery do not fit
        together.
        """
        super().__init__()
        self.checkpoints = dict(checkpoints)
        self.gallery, self.seed = gallery, seed
        self.favourites: list[Favourite] = []
        self._models: dict[str, Synthesizer] = {}
        self._memory: dict[tuple[Any, ...], Any] = {}
        self._uploads: dict[str, tuple[str, Tensor]] = {}
        self._folder: Path | None = None
        if not (self.checkpoints and gallery.parts):
            raise ValueError(
                f"found {len(self.checkpoints)} checkpoints and parts of {len(gallery.parts)} "
                "products, expected one of each at least"
            )
        self.checkpoint = next(iter(self.checkpoints))
        self.product = next(iter(gallery.parts))
        self.defect = self.defects[0]
        self._stay_in_range()
        self._paint()
        self.status = f"{self.checkpoint} is loaded. Choose a part, a defect and a style."

    # --- what can be chosen ----------------------------------------------------------------------

    @property
    def synth(self) -> Synthesizer:
        """The chosen model, loaded at its first use."""
        if self.checkpoint not in self.checkpoints:
            known = ", ".join(self.checkpoints)
            raise ValueError(f"unknown checkpoint {self.checkpoint!r}; expected one of {known}")
        if self.checkpoint not in self._models:
            given = self.checkpoints[self.checkpoint]
            synth = given if isinstance(given, Synthesizer) else Synthesizer.load(given)
            self.gallery.check_fit(synth, self.checkpoint)
            self._models[self.checkpoint] = synth
        return self._models[self.checkpoint]

    @property
    def products(self) -> list[str]:
        """Products to choose from; "your picture" once there is one."""
        return [*self.gallery.parts, *([UPLOAD] if "part" in self._uploads else [])]

    @property
    def defects(self) -> list[str]:
        """Defects to choose from, the anchor left out."""
        return [name for name in self.synth.defects if name != self.synth.anchor]

    @property
    def map_sources(self) -> list[str]:
        """Sources of the defect map to choose from."""
        shown = [PICTURE] if self.defect in self.gallery.references else []
        return [*shown, RANDOM, *([UPLOAD] if "reference" in self._uploads else [])]

    def count(self, what: str) -> int:
        """How many there are to choose from: of "part", "map_number" or "style_number"; 1 or more.

        Random draws have no end; 100 are offered.
        """
        if what == "part":
            return 1 if self.product == UPLOAD else len(self.gallery.parts[self.product])
        source = self.map_source if what == "map_number" else self.style_source
        counts = {PICTURE: len(self.gallery.references.get(self.defect, ())), RANDOM: 100}
        return max(1, counts.get(source, 1))

    # --- choosing --------------------------------------------------------------------------------

    def recipe(self) -> dict[str, Any]:
        """Every setting that decides the picture, by name."""
        return {name: getattr(self, name) for name in self.trait_names() if name not in _NO_RECIPE}

    def set(self, **changes: Any) -> bool:
        """Change settings and paint, x and y by moving the defect; says whether it went well.

        An error (a number out of range, a damaged checkpoint) is told in `status` and changes
        nothing.
        """
        before = {name: getattr(self, name) for name in self.trait_names()}
        settings = [name for name in before if name not in ("status", "failed")]
        if changes.keys() & {"x", "y"}:
            changes.setdefault("moved", True)
        try:
            for name, value in changes.items():
                if name not in settings:
                    raise ValueError(f"{name!r} is no setting; expected one of {settings}")
                if value != value:  # NaN lies in every range that traitlets knows
                    raise ValueError(f"{name} is {value}; expected a number")
                setattr(self, name, value)
            self._stay_in_range()
            self._paint()
        except (TraitError, ValueError, CheckpointError) as error:
            for name, value in before.items():
                setattr(self, name, value)
            return self._say(str(error), failed=True)
        return self._say("")

    def _say(self, text: str, failed: bool = False) -> bool:
        self.status, self.failed = text, failed
        return not failed

    def _stay_in_range(self) -> None:
        """Another product or defect may have fewer pictures, or none."""
        if self.product not in self.products:
            raise ValueError(f"unknown product {self.product!r}; expected one of {self.products}")
        if self.defect not in self.defects:
            raise ValueError(f"unknown defect {self.defect!r}; expected one of {self.defects}")
        if self.map_source not in self.map_sources:
            self.map_source = self.map_sources[0]
        if self.style_source == PICTURE and PICTURE not in self.map_sources:
            self.style_source = SAME
        for name in ("part", "map_number", "style_number"):
            setattr(self, name, min(getattr(self, name), self.count(name) - 1))

    def upload(self, role: str, name: str, data: bytes) -> bool:
        """Take a picture of the user's as "part" or "reference" and choose it; says if it could.

        If it cannot be read, `status` says why and nothing changes.
        """
        model = self.synth.config.model
        name = shown(name)
        try:
            array = image_to_array(data, model.channels, model.image_size, name)
        except ValueError as error:
            return self._say(str(error), failed=True)
        picture = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1
        self._uploads[role] = (name, picture)
        self._memory.clear()  # of the one before
        chosen = {"product": UPLOAD} if role == "part" else {"map_source": UPLOAD, "moved": False}
        if not self.set(**chosen):
            return False
        return self._say(f"{name} is read; it was brought to {model.image_size} pixels.")

    # --- painting --------------------------------------------------------------------------------

    def _remembered(self, key: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        if key not in self._memory:
            if len(self._memory) >= FORGET_AFTER:
                del self._memory[next(iter(self._memory))]
            self._memory[key] = make()
        found: Made = self._memory[key]
        return found

    def _chosen_part(self) -> _Part:
        """The part, encoded and decoded once."""

        def make() -> _Part:
            if self.product == UPLOAD:
                name, x = self._uploads["part"]
            else:
                x = self.gallery.parts[self.product][self.part : self.part + 1]
                name = name_of(self.gallery.part_names, self.product, self.part)
            background = self.synth.background(x)
            return _Part(background, self.synth.without_defect(background), name)

        return self._remembered((self.checkpoint, self.product, self.part), make)

    def _chosen_defect(self, source: str, number: int) -> _Defect:
        """A defect map and style by source and number."""

        def make() -> _Defect:
            if source == RANDOM:
                guide = self.synth.latent_guides(self.defect, self.seed, [number])
                return _Defect(guide, None, f"draw {number} of seed {self.seed}")
            if source == UPLOAD:
                name, x_ref = self._uploads["reference"]
            else:
                x_ref = self.gallery.references[self.defect][number : number + 1]
                name = name_of(self.gallery.reference_names, self.defect, number)
            return _Defect(self.synth.reference_guides(x_ref, self.defect), x_ref, name)

        return self._remembered((self.checkpoint, self.defect, source, number), make)

    def _start(self, part: _Part, defect: _Defect) -> Tensor:
        """Where the defect lies before it is moved, (1, 2) pixels; one decode a part and defect."""

        def make() -> Tensor:
            return painted_places(self.synth.paint(part.background, defect.guide) - part.plain)

        source = (self.defect, self.map_source, self.map_number)
        key = (self.checkpoint, self.product, self.part, *source)
        return self._remembered(key, make)

    def _style(self, defect: _Defect) -> Tensor:
        if self.style_source == SAME:
            s = defect.guide.s
        else:
            s = self._chosen_defect(self.style_source, self.style_number).guide.s
        if self.blend == 0:
            return s
        return torch.lerp(s, self._chosen_defect(RANDOM, self.second_style).guide.s, self.blend)

    def _paint(self) -> None:
        """Paint the chosen defect on the chosen part; a moved slider costs one decode of it."""
        part = self._chosen_part()
        defect = self._chosen_defect(self.map_source, self.map_number)
        start = self._start(part, defect)
        side, cells = part.background.x.shape[-1], defect.guide.c.shape[-1]
        target = start
        if self.moved:
            target = torch.tensor([[self.y, self.x]], device=start.device) / 100 * side - 0.5
        else:
            self.y, self.x = (((start[0] + 0.5) / side * 100).clamp(0, 100)).tolist()
        c = defect.guide.c
        if self.alone:
            c = cut_out(c, to_cells(start, side, cells), ALONE_RADIUS)
        c = placed(
            c,
            to_cells(start, side, cells),
            to_cells(target, side, cells),
            self.degrees,
            self.size,
            self.mirror,
        ).contiguous(memory_format=torch.channels_last)
        self.result = self.synth.paint(part.background, Guide(c, self._style(defect)))
        self._shown, self._shown_defect = part, defect

    # --- showing ---------------------------------------------------------------------------------

    def pictures(self) -> dict[str, np.ndarray]:
        """The panel: part, source of the defect, result, change; uint8 (H, W) or (H, W, 3).

        A random draw has no picture; its defect map is shown, bright where |c| is large.
        """
        defect, part = self._shown_defect, self._shown
        return panel_pictures(
            part.background.x, defect.picture, defect.guide.c, self.result, self.overlay
        )

    # --- keeping ---------------------------------------------------------------------------------

    def keep(self) -> Favourite:
        """Remember the picture as it is now, without the overlay."""
        images = to_uint8(self.result)
        made = Favourite(
            recipe={
                **self.recipe(),
                "seed": self.seed,
                "background": self._shown.name,
                "reference": self._shown_defect.name,
                "checkpoint_sha256": self.synth.checkpoint_hash,
            },
            image=images[0],
            mask=self.synth.masks(to_uint8(self._shown.plain), images)[0],
        )
        self.favourites.append(made)
        self._say(f"Kept, {len(self.favourites)} so far. Export writes them all.")
        return made

    def export(self, folder: str | Path) -> pd.DataFrame | None:
        """Write all that was kept: images, approximate masks and, last, manifest.csv.

        `folder` is new or empty, or the one this session has exported to before. None when nothing
        was written, and `status` says why.
        """
        folder = Path(folder)
        if not self.favourites:
            self._say("Nothing is kept yet: press Keep when you like a picture.", failed=True)
            return None
        try:
            if folder != self._folder and folder.exists() and any(folder.iterdir()):
                raise ValueError(f"{folder}: is not empty; choose another folder")
            self._folder = folder
            table = write_favourites(self.favourites, folder, self.synth.mask_kind)
        except (OSError, ValueError) as error:
            self._say(str(error), failed=True)
            return None
        self._say(f"Exported: {len(table)} picture(s) and manifest.csv are in {folder}.")
        return table


_NO_RECIPE = ("status", "failed", "overlay")
