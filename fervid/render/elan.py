"""The windows of a clip as an annotation file for ELAN (EAF 3.0)."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fervid import __version__
from fervid.core.results import WindowResult
from fervid.core.text import escape_control_chars
from fervid.render.person_spans import LabelSpan, label_spans

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_TIER_TYPE = "default-lt"  # the linguistic type that ELAN gives to new tiers


def render_eaf(windows: Sequence[WindowResult]) -> bytes:
    """Render the windows of one clip as EAF: a tier for each person, an annotation for each time span of a label.

    ELAN looks for the video at its absolute path, and then beside the EAF file.
    """
    people = label_spans(windows)
    annotations = [span for spans in people.values() for span in spans]
    document = Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": f"fervid {__version__}",
            "DATE": datetime.now(UTC).isoformat(timespec="seconds"),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": _XSI,
            "xsi:noNamespaceSchemaLocation": _SCHEMA,
        },
    )
    _add_header(document, Path(windows[0].path), len(annotations))
    slots = _add_time_slots(document, annotations)
    identities = {person.id: person.identity for window in windows for person in window.people if person.identity}
    classifier = windows[0].models.get("classifier")
    number = 0
    for person, spans in people.items():
        tier = SubElement(document, "TIER", LINGUISTIC_TYPE_REF=_TIER_TYPE, TIER_ID=f"person {person}")
        if person in identities:
            tier.set("PARTICIPANT", escape_control_chars(identities[person]))
        if classifier:
            tier.set("ANNOTATOR", escape_control_chars(classifier.name))
        for span in spans:
            start, end = slots[number]
            number += 1
            annotation = SubElement(
                SubElement(tier, "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number}",
                TIME_SLOT_REF1=start,
                TIME_SLOT_REF2=end,
            )
            SubElement(annotation, "ANNOTATION_VALUE").text = escape_control_chars(span.label)
    SubElement(document, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID=_TIER_TYPE, TIME_ALIGNABLE="true")
    ElementTree.indent(document)
    xml: bytes = ElementTree.tostring(document, "utf-8", xml_declaration=True)
    return xml + b"\n"


def _add_header(document: Element, clip: Path, annotations: int) -> None:
    header = SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        MEDIA_URL="file:///" + escape_control_chars(clip.resolve().as_posix().lstrip("/")),  # ELAN decodes no %20
        MIME_TYPE=mimetypes.guess_type(clip.name)[0] or "video/*",
        RELATIVE_MEDIA_URL="./" + escape_control_chars(clip.name),
    )
    SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(annotations)


def _add_time_slots(document: Element, annotations: Sequence[LabelSpan]) -> list[tuple[str, str]]:
    """Add the times of all annotations in ascending order, and return the ids of start and end of each."""
    starts = [(span.start_ms, number, 0) for number, span in enumerate(annotations)]
    ends = [(span.end_ms, number, 1) for number, span in enumerate(annotations)]
    order = SubElement(document, "TIME_ORDER")
    ids: dict[tuple[int, int], str] = {}
    for slot, (time, number, side) in enumerate(sorted(starts + ends), start=1):
        ids[number, side] = f"ts{slot}"
        SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{slot}", TIME_VALUE=str(time))
    return [(ids[number, 0], ids[number, 1]) for number in range(len(annotations))]
