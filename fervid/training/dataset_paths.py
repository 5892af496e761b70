"""Where the data sets lie below one root folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DatasetPaths:
    """Paths of the data sets below one root folder; models/README.md says how to get them."""

    root: Path

    def __post_init__(self) -> None:
        """Check that all exist.

        Raises:
            FileNotFoundError: Data sets are missing; the message names all of them.
        """
        paths = [self.ferplus, self.fer2013, self.utkface, self.celeba, self.lfw, self.pairs]
        paths += [self.rafdb, self.affectnet, self.contempt, self.kerc, self.sfew, self.javased]
        if missing := [str(path) for path in paths if not path.exists()]:
            raise FileNotFoundError(
                f"these data sets are missing: {', '.join(missing)}; models/README.md says where each comes from"
            )

    @property
    def ferplus(self) -> Path:
        """Images and votes of FER+."""
        return self.root / "ferplus"

    @property
    def fer2013(self) -> Path:
        """The same images in folders by their FER2013 label."""
        return self.root / "faceexp" / "data"

    @property
    def utkface(self) -> Path:
        """UTKFace."""
        return self.root / "utkface" / "data" / "UTKFace" / "unlabeled"

    @property
    def celeba(self) -> Path:
        """Photographs with identities."""
        return self.root / "celeba"

    @property
    def lfw(self) -> Path:
        """Labeled Faces in the Wild, to test on."""
        return self.root / "lfw"

    @property
    def rafdb(self) -> Path:
        """RAF-DB, basic emotions."""
        return self.root / "rafdb" / "Dataset"

    @property
    def affectnet(self) -> Path:
        """Four classes of AffectNet."""
        return self.root / "affectnet4"

    @property
    def contempt(self) -> Path:
        """Faces with contempt."""
        return self.root / "contempt"

    @property
    def kerc(self) -> Path:
        """Film clips of KERC 2020."""
        return self.root / "kerc"

    @property
    def sfew(self) -> Path:
        """Film stills of SFEW, to test on."""
        return self.root / "sfew" / "code_v2" / "data" / "Images"

    @property
    def javased(self) -> Path:
        """Clips of Java-SED, to develop and test on."""
        return self.root / "javased" / "dataset-resize"

    @property
    def pairs(self) -> Path:
        """Verification pairs of LFW."""
        return self.root / "lfwpairs" / "data" / "pairs.txt"
