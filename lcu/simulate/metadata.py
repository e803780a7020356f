# ruff: noqa: E501  (lines of XML are as long as they are)
"""The metadata of a SAFE product, as far as readers ask for it, GDAL's SENTINEL2 driver among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np

from lcu.grid import Grid, day_number
from lcu.simulate import parameters as p
from lcu.simulate.sensor import RESOLUTION
from lcu.simulate.sky import Visit, sun

_PSD = "https://psd-14.sentinel2.eo.esa.int/PSD"
# Physical name, then shortest, central and longest wavelength in nm; B10 is part of the list, though L2A has none.
_SPECTRUM = {
    "B01": ("B1", 412, 442.7, 456), "B02": ("B2", 456, 492.7, 533), "B03": ("B3", 538, 559.8, 583),
    "B04": ("B4", 646, 664.6, 684), "B05": ("B5", 695, 704.1, 714), "B06": ("B6", 731, 740.5, 749),
    "B07": ("B7", 769, 782.8, 797), "B08": ("B8", 760, 832.8, 907), "B8A": ("B8A", 837, 864.7, 881),
    "B09": ("B9", 932, 945.1, 958), "B10": ("B10", 1337, 1373.5, 1412),
    "B11": ("B11", 1539, 1613.7, 1682), "B12": ("B12", 2078, 2202.4, 2320),
}  # fmt: skip
_SCL_SHARES = {
    "SATURATED_DEFECTIVE_PIXEL": (1,), "DARK_FEATURES": (2,), "CLOUD_SHADOW": (3,), "VEGETATION": (4,),
    "NOT_VEGETATED": (5,), "WATER": (6,), "UNCLASSIFIED": (7,), "MEDIUM_PROBA_CLOUDS": (8,),
    "HIGH_PROBA_CLOUDS": (9,), "THIN_CIRRUS": (10,), "SNOW_ICE": (11,),
}  # fmt: skip
_CLOUDY = (8, 9, 10)


class Names:
    """The names that one product goes by."""

    def __init__(self, visit: Visit) -> None:
        """Make them from tile, time, orbit and baseline."""
        self.baseline = p.NEW_BASELINE if visit.new else p.OLD_BASELINE
        self.made = visit.start + timedelta(hours=4, minutes=9)
        self.start = visit.start
        start, made = f"{visit.start:%Y%m%dT%H%M%S}", f"{self.made:%Y%m%dT%H%M%S}"
        number = self.baseline.replace(".", "")
        craft = f"S2{visit.spacecraft}"
        # The absolute orbit: one revolution takes 100.6 minutes; 143 of them are a cycle of 10 days.
        self.absolute = 1000 + day_number(visit.start) * 143 // 10
        self.product = (
            f"{craft}_MSIL2A_{start}_N{number}_R{visit.orbit:03}_T{visit.tile}_{made}.SAFE"
        )
        self.granule = f"L2A_T{visit.tile}_A{self.absolute:06}_{start}"
        self.stem = f"T{visit.tile}_{start}"
        self.datatake = f"G{craft}_{start}_{self.absolute:06}_N{self.baseline}"
        self.strip = f"{craft}_OPER_MSI_L2A_DS_SIML_{made}_S{start}_N{self.baseline}"
        self.tile = f"{craft}_OPER_MSI_L2A_TL_SIML_{made}_A{self.absolute:06}_T{visit.tile}_N{self.baseline}"

    def image(self, band: str, resolution: int) -> str:
        """Return the path of a band inside the product, without suffix."""
        return f"GRANULE/{self.granule}/IMG_DATA/R{resolution}m/{self.stem}_{band}_{resolution}m"

    @property
    def images(self) -> dict[str, str]:
        """Band (or SCL) -> path inside the product, without suffix."""
        return {band: self.image(band, n) for band, n in RESOLUTION.items()} | {
            "SCL": self.image("SCL", 20)
        }


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.024Z"


def shares(scl: np.ndarray) -> dict[str, float]:
    """Return the percentages that the metadata states, from the scene classification, uint8 [y, x]."""
    counts = np.bincount(scl.ravel(), minlength=12)[:12]
    seen = max(int(counts[1:].sum()), 1)
    found = {"NODATA_PIXEL": 100 * counts[0] / scl.size}
    found |= {name: 100 * counts[list(codes)].sum() / seen for name, codes in _SCL_SHARES.items()}
    return {"CLOUDY": 100 * counts[list(_CLOUDY)].sum() / seen} | found


def product_xml(visit: Visit, percent: Mapping[str, float]) -> str:
    """Return MTD_MSIL2A.xml."""
    names = Names(visit)
    files = "\n".join(
        f"            <IMAGE_FILE>{path}</IMAGE_FILE>" for path in names.images.values()
    )
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="{_PSD}/User_Product_Level-2A.xsd" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{_time(names.start)}</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{_time(names.start)}</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{names.product}</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
      <PROCESSING_BASELINE>{names.baseline}</PROCESSING_BASELINE>
      <GENERATION_TIME>{names.made:%Y-%m-%dT%H:%M:%S}.000000Z</GENERATION_TIME>
      <PREVIEW_IMAGE_URL>Not applicable</PREVIEW_IMAGE_URL>
      <PREVIEW_GEO_INFO>Not applicable</PREVIEW_GEO_INFO>
      <Datatake datatakeIdentifier="{names.datatake}">
        <SPACECRAFT_NAME>Sentinel-2{visit.spacecraft}</SPACECRAFT_NAME>
        <DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>
        <DATATAKE_SENSING_START>{_time(names.start)}</DATATAKE_SENSING_START>
        <SENSING_ORBIT_NUMBER>{visit.orbit}</SENSING_ORBIT_NUMBER>
        <SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
      </Datatake>
      <Query_Options completeSingleTile="true">
        <PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT>
      </Query_Options>
      <Product_Organisation>
        <Granule_List>
          <Granule datastripIdentifier="{names.strip}" granuleIdentifier="{names.tile}" imageFormat="JPEG2000">
{files}
          </Granule>
        </Granule_List>
      </Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Image_Display_Order>
        <RED_CHANNEL>3</RED_CHANNEL>
        <GREEN_CHANNEL>2</GREEN_CHANNEL>
        <BLUE_CHANNEL>1</BLUE_CHANNEL>
      </Image_Display_Order>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{p.QUANTIFICATION}</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>
        <WVP_QUANTIFICATION_VALUE unit="cm">1000.0</WVP_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
{_offsets(visit)}      <Spectral_Information_List>
{_spectrum()}
      </Spectral_Information_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{percent["CLOUDY"]:.6f}</Cloud_Coverage_Assessment>
    <Image_Content_QI>
{_percentages(percent, 6)}
    </Image_Content_QI>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _offsets(visit: Visit) -> str:
    """Return the offsets of the new baseline; the old one has no such element."""
    if not visit.new:
        return ""
    lines = [
        f'        <BOA_ADD_OFFSET band_id="{i}">{p.OFFSET}</BOA_ADD_OFFSET>'
        for i in range(len(_SPECTRUM))
    ]
    return "\n".join(
        ["      <BOA_ADD_OFFSET_VALUES_LIST>", *lines, "      </BOA_ADD_OFFSET_VALUES_LIST>", ""]
    )


def _spectrum() -> str:
    entries = []
    for number, (band, (name, low, middle, high)) in enumerate(_SPECTRUM.items()):
        entries.append(f"""        <Spectral_Information bandId="{number}" physicalBand="{name}">
          <RESOLUTION>{RESOLUTION.get(band, 60)}</RESOLUTION>
          <Wavelength>
            <MIN unit="nm">{low}</MIN>
            <MAX unit="nm">{high}</MAX>
            <CENTRAL unit="nm">{middle}</CENTRAL>
          </Wavelength>
        </Spectral_Information>""")
    return "\n".join(entries)


def _percentages(percent: Mapping[str, float], indent: int) -> str:
    listed = [name for name in percent if name != "CLOUDY"]
    return "\n".join(
        f"{' ' * indent}<{n}_PERCENTAGE>{percent[n]:.6f}</{n}_PERCENTAGE>" for n in listed
    )


def granule_xml(visit: Visit, grid: Grid, percent: Mapping[str, float]) -> str:
    """Return MTD_TL.xml: where the tile lies and how large its grids are."""
    names = Names(visit)
    zone = int(grid.crs[-2:])
    south = grid.crs.startswith("EPSG:327")
    zenith, azimuth = sun(visit.day_of_year)
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_Tile_ID xmlns:n1="{_PSD}/S2_PDI_Level-2A_Tile_Metadata.xsd" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">{names.tile}</TILE_ID>
    <DATASTRIP_ID metadataLevel="Standard">{names.strip}</DATASTRIP_ID>
    <DOWNLINK_PRIORITY metadataLevel="Standard">NOMINAL</DOWNLINK_PRIORITY>
    <SENSING_TIME metadataLevel="Standard">{_time(names.start + timedelta(minutes=4))}</SENSING_TIME>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>WGS84 / UTM zone {zone}{"S" if south else "N"}</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>{grid.crs}</HORIZONTAL_CS_CODE>
{_geocoding(grid)}
    </Tile_Geocoding>
    <Tile_Angles metadataLevel="Standard">
      <Mean_Sun_Angle>
        <ZENITH_ANGLE unit="deg">{zenith:.6f}</ZENITH_ANGLE>
        <AZIMUTH_ANGLE unit="deg">{azimuth:.6f}</AZIMUTH_ANGLE>
      </Mean_Sun_Angle>
    </Tile_Angles>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info metadataLevel="Standard">
    <Image_Content_QI>
      <CLOUDY_PIXEL_PERCENTAGE>{percent["CLOUDY"]:.6f}</CLOUDY_PIXEL_PERCENTAGE>
{_percentages(percent, 6)}
    </Image_Content_QI>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_Tile_ID>
"""


def _geocoding(grid: Grid) -> str:
    west, _, _, north, _, _ = grid.transform
    sizes, places = [], []
    for n in (10, 20, 60):
        rows, cols = -(-grid.height * 10 // n), -(-grid.width * 10 // n)
        sizes.append(f"""      <Size resolution="{n}">
        <NROWS>{rows}</NROWS>
        <NCOLS>{cols}</NCOLS>
      </Size>""")
        places.append(f"""      <Geoposition resolution="{n}">
        <ULX>{west:.0f}</ULX>
        <ULY>{north:.0f}</ULY>
        <XDIM>{n}</XDIM>
        <YDIM>-{n}</YDIM>
      </Geoposition>""")
    return "\n".join(sizes + places)


def manifest(files: Sequence[tuple[str, int, str]]) -> str:
    """Return manifest.safe: the product's files as (path inside it, size in bytes, MD5 sum)."""
    objects = []
    for path, size, total in files:
        kind = "application/octet-stream" if path.endswith(".jp2") else "text/xml"
        name = path.rpartition("/")[2].partition(".")[0]
        objects.append(f"""    <dataObject ID="{name}_Data">
      <byteStream mimeType="{kind}" size="{size}">
        <fileLocation locatorType="URL" href="./{path}"/>
        <checksum checksumName="MD5">{total}</checksum>
      </byteStream>
    </dataObject>""")
    listed = "\n".join(objects)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" version="esa/safe/sentinel/1.1/sentinel-2/msi/archive_l2a_user_product">
  <informationPackageMap>
    <xfdu:contentUnit unitType="Product_Level-2A" textInfo="Synthetic Sentinel-2 MSI Level-2A product" pdiID="processing"/>
  </informationPackageMap>
  <dataObjectSection>
{listed}
  </dataObjectSection>
</xfdu:XFDU>
"""
