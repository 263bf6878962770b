"""`python -m retrieval_svc.reindex FOLDER`: build the indexes of a new base, see `folding.py`.

For each folder in FOLDER with `vectors.npy` and `like.json`, the settings of the old index, writes
`index/` beside them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_NICENESS = 10  # of two that want a core, the searches get it


def main(folder: Path) -> None:
    os.nice(_NICENESS)
    os.environ["OMP_NUM_THREADS"] = "1"  # numpy and ScaNN read it when they are loaded
    import numpy as np

    from retrieval_svc.index import rebuild_source_index
    from retrieval_svc.scann_index import ScannSettings

    for path in sorted(folder.glob("*/like.json")):
        like = ScannSettings(**json.loads(path.read_text("utf-8")))
        vectors = np.load(path.parent / "vectors.npy", allow_pickle=False)
        rebuild_source_index(vectors, path.parent / "index", like, threads=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
