"""Maps for people and other software: Cloud-Optimised GeoTIFF, previews, the report."""

from lcu.publish.geotiff import LAYERS, product_name, write_product
from lcu.publish.stage import run

__all__ = ["LAYERS", "product_name", "run", "write_product"]
