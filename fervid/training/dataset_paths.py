"""Where the data sets lie below one root folder."""

from __future__ import annotations

from pathlib import Path


class DatasetPaths:
    """Paths of the data sets below one root folder; models/README.md says how to get them."""

    def __init__(self, root: Path) -> None:
        """Check that all data sets exist.

        Raises:
            FileNotFoundError: Data sets are missing; the message names all of them.
        """
        self.root = root
        self.ferplus = root / "ferplus"  # images and votes of FER+
        self.fer2013 = root / "faceexp" / "data"  # the same images in folders by their FER2013 label
        self.utkface = root / "utkface" / "data" / "UTKFace" / "unlabeled"
        self.celeba = root / "celeba"  # photographs with identities
        self.lfw = root / "lfw"  # Labeled Faces in the Wild, to test on
        self.pairs = root / "lfwpairs" / "data" / "pairs.txt"  # verification pairs of LFW
        self.rafdb = root / "rafdb" / "Dataset"  # RAF-DB, basic emotions
        self.affectnet = root / "affectnet4"  # four classes of AffectNet
        self.contempt = root / "contempt"  # faces with contempt
        self.kerc = root / "kerc"  # film clips of KERC 2020
        self.sfew = root / "sfew" / "code_v2" / "data" / "Images"  # film stills of SFEW, to test on
        self.javased = root / "javased" / "dataset-resize"  # clips of Java-SED, to develop and test on
        if missing := [str(path) for path in vars(self).values() if path != root and not path.exists()]:
            raise FileNotFoundError(
                f"these data sets are missing: {', '.join(missing)}; models/README.md says where each comes from"
            )
