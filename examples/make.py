"""Makes the clips of this folder from photographs of scikit-image that are in the public domain.

make examples
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data

import clips

HERE = Path(__file__).parent


def main() -> None:
    """Write them all."""
    clips.write(HERE / "astronaut.mp4", clips.smiling(60), options={"crf": "30"})
    sideways = [np.ascontiguousarray(np.rot90(image)) for image in clips.smiling(40, 240, 320)]
    times = np.cumsum(np.tile([0.03, 0.05, 0.08, 0.04], 10)).tolist()
    clips.turn(clips.write(HERE / "phone.mp4", sideways, times=times, options={"crf": "30"}), 90)
    coffee = skimage.data.coffee()
    pan = [np.ascontiguousarray(coffee[40:280, x : x + 320]) for x in range(0, 200, 5)]
    clips.write(HERE / "coffee.mp4", pan, options={"crf": "32"})


if __name__ == "__main__":
    main()
