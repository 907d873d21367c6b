"""What a picture says, for the tests of the pages that carry one."""

import re
import xml.etree.ElementTree as ET
from collections import Counter


def labels(svg: str) -> Counter[str]:
    """What the marks of a picture say, which is whole and follows light and dark."""
    assert "prefers-color-scheme:dark" in svg and not re.search("NaN|Infinity|undefined|null", svg)
    elements = ET.fromstring(svg).iter()
    said = (e for e in elements if e.get("aria-label") and e.get("aria-roledescription") not in ("axis", "legend"))
    return Counter(e.attrib["aria-label"] for e in said)
