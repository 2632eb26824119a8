"""A trained encoder as a SavedModel, which serves, searches and is fine-tuned with TensorFlow alone.

| signature | takes | gives |
|---|---|---|
| `serving_default` | `images`: uint8 `(n, height, width, channels)`, of any size | `embedding`: float32 `(n, dim)`, rows of unit length |
| `resized` | `images`: uint8 `(n, size, size, channels)`, of the size that the export is made for | the same |
| `encoded` | `bytes`: string `(n,)`, each a JPEG or PNG | the same, NaN for what cannot be read; `valid`: bool `(n,)` |
| `similarity` | `first`, `second`: uint8 `(n, height, width, channels)` each | `similarity`: float32 `(n,)`, cosine of row i with row i |
| `classify`, given a `classifier` | `images` | `label` `(n,)`, its `probability` `(n,)`, and `probabilities` `(n, classes)` |
| `search`, given an `index` | `bytes` | `ids` and `scores` `(n, k)` of the nearest, nearest first; `valid` |
| `train` | `images` | `features`: float32 `(n, dim)`, and their `embedding` |

Preprocessing is inside: images are resized and scaled as the loader does (`data.resize`), bytes decoded and turned as it
does (`data.decode`, EXIF orientation). An encoder of images of any size is served at the one size it is exported for.
Every row of an output depends on its own row of the input alone, so that a server may put requests together into one
batch; `similarity` also compares a single image with a whole batch, which a batching server must not mix.
`resized` is for TensorFlow Lite and ONNX, which have no such resize and no decoders.

`train` runs the encoder as in training: gradients reach `loaded.trainable_variables`, and batch normalisation uses and
moves its statistics. Put a classifier on its `features`; the other signatures serve the weights as they have become:

    loaded = tf.saved_model.load("served/1")
    with tf.GradientTape() as tape:
        loss = my_loss(labels, classifier(loaded.train(images)["features"]))
    gradients = tape.gradient(loss, loaded.trainable_variables)

`assets/model_card.json` says what the model is and where it comes from. Head, loss and optimizer are not in the export.
"""

from keras_contrastive.export.card import fingerprint
from keras_contrastive.export.save import next_version, save

__all__ = ["fingerprint", "next_version", "save"]
