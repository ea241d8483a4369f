"""Compute the golden numbers of seed-cnn with real Keras; run once, in an environment that has tensorflow-cpu.

    python tests/golden/make_keras_golden.py tests/golden/seed_cnn_keras.npz

Weights and inputs come from a seeded NumPy generator (`seed_cnn_inputs.py`), so the file holds only what Keras made
of them: logits in inference, then losses, moving statistics and weights after two steps of Adam.
"""

import sys

import keras
import numpy as np
from keras import layers
from seed_cnn_inputs import FILTERS, LEARNING_RATE, SIZE, STEPS, inputs, sample, weights


def build() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(image)
    for filters in FILTERS:
        x = layers.Conv2D(filters, 2, strides=2, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu")(x)
        x = layers.Dropout(0.0)(x) if filters == FILTERS[-1] else layers.MaxPooling2D(2, 2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.0)(x)
    return keras.Model(image, layers.Dense(1)(x))


def main(path: str) -> None:
    # In double precision, so that the gradient of a bias before a normalisation, which is zero, is no noise to Adam.
    keras.config.set_floatx("float64")
    model = build()
    crops, labels = inputs()
    for variable, value in zip(model.weights, weights(), strict=True):
        assert variable.shape == value.shape, (variable.path, variable.shape, value.shape)
        variable.assign(value)
    golden = {
        "keras": np.array(keras.__version__),
        "parameters": np.array([model.count_params(), sum(int(np.prod(w.shape)) for w in model.trainable_weights)]),
        "widths": np.array([layer.output.shape[1] for layer in model.layers if len(layer.output.shape) == 4]),
        "logits": model(crops.astype("float64"), training=False).numpy(),
    }
    model.compile(keras.optimizers.Adam(LEARNING_RATE), keras.losses.BinaryCrossentropy(from_logits=True))
    losses = [model.train_on_batch(crops.astype("float64"), labels[:, None]) for _ in range(STEPS)]
    golden["losses"] = np.array(losses, dtype="float64").reshape(STEPS, -1)[:, 0]
    golden["logits_after"] = model(crops.astype("float64"), training=False).numpy()
    for number, variable in enumerate(model.weights):
        golden[f"weight_{number}"] = sample(variable.numpy()).astype("float32")
    np.savez_compressed(path, **golden)
    print({name: value.shape for name, value in golden.items()}, golden["losses"], golden["widths"])


if __name__ == "__main__":
    main(sys.argv[1])
