"""Styles of land-cover maps for QGIS (.qml) and for everything that reads OGC's SLD 1.0 (.sld)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from lcu.assess import write_whole
from lcu.legend import OUTSIDE, Legend
from lcu.publish.geotiff import OUTSIDE_COLOUR

SLD = "http://www.opengis.net/sld"


def write(folder: Path, legend: Legend) -> list[str]:
    """Write both styles of a legend under its name; return their paths."""
    name = re.sub(r"[^\w.-]+", "-", legend.name)
    paths = [folder / f"{name}.qml", folder / f"{name}.sld"]
    for path, content in zip(paths, (qml(legend), sld(legend)), strict=True):
        write_whole(path, content)
    return [str(path) for path in paths]


def entries(legend: Legend) -> Iterator[tuple[int, str, str]]:
    """Yield value, name and colour of all that a map shows; nodata is transparent."""
    for entry in legend.classes:
        yield entry.value, entry.name, entry.colour.lower()
    yield OUTSIDE, "outside", "#{:02x}{:02x}{:02x}".format(*OUTSIDE_COLOUR)


def qml(legend: Legend) -> str:
    """Return the style for QGIS 3: a renderer of palettes."""
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = _below(
        _below(root, "pipe"),
        "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1",
    )  # fmt: skip
    _below(renderer, "rasterTransparency")
    palette = _below(renderer, "colorPalette")
    for value, name, colour in entries(legend):
        _below(palette, "paletteEntry", value=str(value), label=name, color=colour, alpha="255")
    _below(root, "blendMode").text = "0"
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + _text(root)


def sld(legend: Legend) -> str:
    """Return the style as SLD 1.0, with the colour map's type that GeoServer and QGIS know."""
    root = ElementTree.Element("StyledLayerDescriptor", {"xmlns": SLD, "version": "1.0.0"})
    layer = _below(root, "NamedLayer")
    _below(layer, "Name").text = legend.name
    style = _below(layer, "UserStyle")
    _below(style, "Name").text = legend.name
    symbols = _below(_below(_below(style, "FeatureTypeStyle"), "Rule"), "RasterSymbolizer")
    _below(symbols, "Opacity").text = "1"
    channel = _below(_below(symbols, "ChannelSelection"), "GrayChannel")
    _below(channel, "SourceChannelName").text = "1"
    colours = _below(symbols, "ColorMap", type="values")
    for value, name, colour in entries(legend):
        _below(colours, "ColorMapEntry", color=colour, quantity=str(value), label=name, opacity="1")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _text(root)


def _below(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
