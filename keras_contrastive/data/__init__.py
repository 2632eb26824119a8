"""Images in: sources by name, shuffled batches, and positives and negatives sampled on the fly.

    source = data.load("digits")
    dataset = data.batches(source.train, 128, seed=0)      # uint8 images, int64 ids
    model.fit(dataset, epochs=20, shuffle=False)           # each pass is the next epoch

What `data.load` takes:

| spec | images | labels | test part | default `image_size` |
|---|---|---|---|---|
| `digits` | scikit-learn's 1797 handwritten digits, grey | yes | 500 held out | 16 |
| `mnist`, `fashion_mnist`, `cifar10`, `cifar100` | through `keras.datasets` (downloaded once) | yes | its own | as they are |
| `npz:FILE` | `x_train`, and `x_test` if it is there | `y_train`, `y_test` | its own, else a fifth | as they are |
| `folder:DIR` | JPEG, PNG, GIF, BMP and WebP files, made RGB | sub-folders | `test/` beside `train/`, else a fifth | 96 |
| `csv:FILE` | files by their paths; or given pairs or triplets of them | a column, or pair ids | by a column, else a fifth | 96 |
| `tfrecords:DIR` | shards of `write_records` or others | if they have them | `test*` beside `train*`, else a fifth | as they are; 96 where sizes differ |
| `tfds:NAME` | through tensorflow-datasets (an extra) | if it has them | its own, else a fifth | as they are; 96 where sizes differ |

With `split="classes"` train and test share no class, for any of them that has classes and is no stream.

Everything that `batches`, `pairs`, `triplets`, `class_balanced` and `partly_labelled` draw from is a set of `Examples` with random access
(`Part`: arrays; `FilePart`, `RecordPart`: decoded when asked for; `Given`: pairs and triplets) or a `Stream`: any
`tf.data.Dataset`. A new kind of source is one function in `source.py` and one line in `source.SOURCES`.
"""

from __future__ import annotations

from keras_contrastive.data.batches import batches
from keras_contrastive.data.encoded import decode_batch
from keras_contrastive.data.files import FilePart
from keras_contrastive.data.given import Given
from keras_contrastive.data.images import decode, resize
from keras_contrastive.data.part import Examples, Part, keep_labels
from keras_contrastive.data.records import RecordPart
from keras_contrastive.data.sampling import (
    HardSampler,
    class_balanced,
    pairs,
    partly_labelled,
    triplets,
)
from keras_contrastive.data.source import Source, load
from keras_contrastive.data.stream import Stream
from keras_contrastive.data.write_records import write_records

__all__ = [
    "Examples",
    "FilePart",
    "Given",
    "HardSampler",
    "Part",
    "RecordPart",
    "Source",
    "Stream",
    "batches",
    "class_balanced",
    "decode",
    "decode_batch",
    "keep_labels",
    "load",
    "pairs",
    "partly_labelled",
    "resize",
    "triplets",
    "write_records",
]
